"""How the demo merges: by the real command, but in memory to look for a scale."""

from __future__ import annotations

import copy
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from mergekit.merge_methods import merge_state_dicts
from transformers import AutoModelForCausalLM, PreTrainedModel

from mergekit_breadcrumbs.demo.folder import BASE, CONFIGS, EXPERTS
from mergekit_breadcrumbs.demo.training import Encoded, measure

# What docs/choosing.md says for so many models, and what nobody has tuned.
WEIGHT, DENSITY, GAMMA, LAMBDA = 1.0, 0.1, 0.01, 1.0

SCALES = (0.1, 0.2, 0.3, 0.5)


def find_mergekit_yaml() -> str:
    """Return the path of the command, beside the Python that is running."""
    folders = [os.path.dirname(sys.executable), sysconfig.get_path("scripts")]
    found = shutil.which("mergekit-yaml", path=os.pathsep.join(folders))
    if found is None:
        raise click.ClickException(
            f"the command mergekit-yaml must be in {' or '.join(folders)}; it is not."
            f" Install it with: {sys.executable} -m pip install mergekit"
        )
    return found


def load(out_dir: Path, name: str) -> PreTrainedModel:
    """Return a model of the demo."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(out_dir / name)
    return model


def merge(
    mergekit_yaml: str, out_dir: Path, method: str, name: str, scale: float
) -> None:
    """Write a config, and have the real `mergekit-yaml` merge all experts by it.

    Raises:
        click.ClickException: it failed; with what it printed.
    """
    config = out_dir / CONFIGS[name]
    config.write_text(_config_text(out_dir, method, scale), encoding="utf-8")
    command = [mergekit_yaml, str(config), str(out_dir / name)]
    click.echo(f"merging: mergekit-yaml {CONFIGS[name]} {name}")
    run = subprocess.run(
        command,
        # Nothing is fetched: every path in the config is a local folder.
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if run.returncode:
        raise click.ClickException(
            f"{shlex.join(command)} ended with status {run.returncode}:\n{run.stdout}"
        )


def _parameters(method: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {"weight": WEIGHT}
    if method == "breadcrumbs":
        parameters |= {"density": DENSITY, "gamma": GAMMA, "granularity": "row"}
    return parameters


def _config_text(out_dir: Path, method: str, scale: float) -> str:
    # Absolute, so that the config means the same in every working directory. A JSON
    # string is a YAML string, whatever characters the path has.
    base, *experts = (
        json.dumps(str(out_dir.resolve() / name), ensure_ascii=False)
        for name in (BASE, *EXPERTS.values())
    )
    lines = [f"merge_method: {method}", f"base_model: {base}", "models:"]
    lines += [f"  - model: {expert}" for expert in experts]
    lines += ["parameters:", f"  lambda: {scale}"]
    lines += [f"  {name}: {value}" for name, value in _parameters(method).items()]
    return "\n".join([*lines, "dtype: float32\n"])


def best_scale(out_dir: Path, method: str, data: dict[str, Encoded]) -> float:
    """Return the lambda that does best on lines which the table is not about."""
    models = [load(out_dir, name) for name in (BASE, *EXPERTS.values())]
    states = [model.state_dict() for model in models]
    merged = copy.deepcopy(models[0])
    given = _parameters(method) | {"weight": [WEIGHT] * len(EXPERTS)}
    means = {}
    for scale in SCALES:
        values = given | {"lambda": scale}
        merged.load_state_dict(
            merge_state_dicts(states, method, base=0, parameters=values)
        )
        means[scale] = fmean(measure(merged, data).values())
    return max(means, key=means.__getitem__)
