"""What is compared: merge methods of mergekit's, and two controls, each by its space.

A merge is made of the upper layers alone, by mergekit's own methods on tensors in
memory; `by_console_script` has `mergekit-yaml` merge whole checkpoints, which gives the
same.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from mergekit.merge_methods import merge_state_dicts
from safetensors.torch import load_file

from mergekit_breadcrumbs.tune.search import Search, Values

State = dict[str, torch.Tensor]


class Arm(NamedTuple):
    """A merge method, what is searched of it, and what is fixed.

    With `random` each task vector has so many elements as `density` says, picked at
    random, and the method is task arithmetic.
    """

    merge_method: str
    searched: tuple[str, ...]
    fixed: tuple[tuple[str, Any], ...] = ()
    random: bool = False
    control: bool = False


ARMS = {
    "task arithmetic": Arm("task_arithmetic", ("lambda",)),
    "TIES": Arm("ties", ("lambda", "density")),
    "DARE": Arm("dare_linear", ("lambda", "density")),
    "breadcrumbs": Arm("breadcrumbs", ("lambda", "density", "gamma")),
    "breadcrumbs, row": Arm(
        "breadcrumbs", ("lambda", "density", "gamma"), (("granularity", "row"),)
    ),
    "breadcrumbs_ties": Arm("breadcrumbs_ties", ("lambda", "density", "gamma")),
    "gamma 0": Arm(
        "breadcrumbs", ("lambda", "density"), (("gamma", 0.0),), control=True
    ),
    "random mask": Arm(
        "task_arithmetic", ("lambda", "density"), random=True, control=True
    ),
}

SPACES = {
    # As the authors' released code searches.
    "authors": {
        "lambda": Search("lambda", 0.01, 1.0),
        "density": Search("density", 0.05, 0.2),
        "gamma": Search("gamma", 0.001, 0.01),
    },
    "wide": {
        "lambda": Search("lambda", 0.05, 5.0, log=True),
        "density": Search("density", 0.02, 0.95),
        "gamma": Search("gamma", 0.0, 0.05),
    },
}


def searches(arm: str, space: str) -> list[Search]:
    """Return what is searched of an arm, in a space."""
    return [SPACES[space][name] for name in ARMS[arm].searched]


def merged(base: State, experts: Sequence[State], arm: str, values: Values) -> State:
    """Return the merge of experts, each with weight 1, by mergekit's own method.

    What is drawn at random is the same every time.
    """
    method = ARMS[arm]
    parameters: dict[str, Any] = {**dict(method.fixed), **values}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if method.random:
            density = parameters.pop("density")
            experts = [_masked(base, expert, density) for expert in experts]
        return merge_state_dicts(
            [base, *experts],
            method.merge_method,
            base=0,
            parameters={"weight": [1.0] * len(experts), **parameters},
        )


def _masked(base: State, expert: State, density: float) -> State:
    masked = {}
    for name, old in base.items():
        kept = torch.rand(old.shape) < density
        masked[name] = torch.where(kept, expert[name], old)
    return masked


def by_console_script(
    base: Path, experts: Sequence[Path], arm: str, values: Values, out: Path
) -> State:
    """Return what `mergekit-yaml` writes of whole checkpoints."""
    method = ARMS[arm]
    config = {
        "merge_method": method.merge_method,
        "base_model": str(base),
        "models": [
            {"model": str(expert), "parameters": {"weight": 1.0}} for expert in experts
        ],
        "parameters": {**dict(method.fixed), **values},
        "dtype": "float32",
    }
    out.mkdir(parents=True)
    file = out / "config.yml"
    file.write_text(yaml.safe_dump(config))
    script = Path(sysconfig.get_path("scripts")) / "mergekit-yaml"
    done = subprocess.run(
        [str(script), str(file), str(out), "--quiet", "--random-seed", "0"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "MERGEKIT_BREADCRUMBS": "require"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return load_file(out / "model.safetensors")
