"""The methods that are compared, and how one merge is made.

Every merge is mergekit's own `run_merge` on checkpoints on disk: what `mergekit-yaml`
calls. `by_console_script` has the command itself do it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sysconfig
from math import exp, log
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from torch.quasirandom import SobolEngine

Parameters = dict[str, float]


class Method(NamedTuple):
    """A merge method of mergekit, and which of its parameters are tuned."""

    merge_method: str
    tuned: tuple[str, ...]
    fixed: tuple[tuple[str, str], ...] = ()


METHODS = {
    "task arithmetic": Method("task_arithmetic", ("lambda",)),
    "TIES": Method("ties", ("lambda", "density")),
    "DARE linear": Method("dare_linear", ("lambda", "density")),
    "breadcrumbs": Method("breadcrumbs", ("lambda", "density", "gamma")),
    "breadcrumbs, row": Method(
        "breadcrumbs", ("lambda", "density", "gamma"), (("granularity", "row"),)
    ),
    "breadcrumbs_ties": Method("breadcrumbs_ties", ("lambda", "density", "gamma")),
}

# Searched on a logarithmic scale where the lower end is above 0.
RANGES = {"lambda": (0.1, 3.0), "density": (0.05, 1.0), "gamma": (0.0, 0.02)}


def draw_trials(method: Method, count: int) -> list[Parameters]:
    """Return the settings to try: for all methods, the same points of a Sobol sequence.

    >>> [trial["lambda"] for trial in draw_trials(METHODS["TIES"], 3)] == [
    ...     trial["lambda"] for trial in draw_trials(METHODS["breadcrumbs"], 3)
    ... ]
    True
    """
    points = SobolEngine(len(RANGES), scramble=True, seed=0).draw(count).tolist()
    return [
        {
            name: _scaled(x, *RANGES[name])
            for name, x in zip(RANGES, point, strict=True)
            if name in method.tuned
        }
        for point in points
    ]


def _scaled(x: float, low: float, high: float) -> float:
    value = exp(log(low) + x * log(high / low)) if low else x * high
    return float(f"{value:.3g}")


def configuration(
    base: Path,
    experts: list[Path],
    method: Method,
    parameters: Parameters,
    weight: float = 1.0,
) -> dict[str, object]:
    """The config of one merge, as mergekit reads it from YAML."""
    return {
        "merge_method": method.merge_method,
        "base_model": str(base),
        "models": [
            {"model": str(expert), "parameters": {"weight": weight}}
            for expert in experts
        ],
        "parameters": {**dict(method.fixed), **parameters},
        "dtype": "float32",
    }


def merge(config: dict[str, object], out: Path, seed: int) -> dict[str, torch.Tensor]:
    """Merge in this process and return the tensors that were written to `out`."""
    # mergekit copies each config with transformers' old name for `dtype`.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    options = MergeOptions(
        quiet=True, random_seed=seed, write_model_card=False, copy_tokenizer=False
    )
    run_merge(MergeConfiguration.model_validate(config), str(out), options)
    return load_file(out / "model.safetensors")


def by_console_script(
    config: dict[str, object], out: Path, seed: int
) -> dict[str, torch.Tensor]:
    """Merge with `mergekit-yaml` and return the tensors that it wrote to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "config.yml"
    file.write_text(yaml.safe_dump(config))
    script = Path(sysconfig.get_path("scripts")) / "mergekit-yaml"
    options = ["--quiet", "--no-copy-tokenizer", "--random-seed", str(seed)]
    run = subprocess.run(
        [str(script), str(file), str(out), *options],
        env=dict(os.environ, HF_HUB_OFFLINE="1", MERGEKIT_BREADCRUMBS="require"),
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(run.stderr)
    return load_file(out / "model.safetensors")
