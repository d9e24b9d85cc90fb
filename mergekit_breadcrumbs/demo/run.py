"""The demo from start to end."""

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
from typing import NamedTuple

import click
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from mergekit_breadcrumbs.demo.folder import (
    BASE,
    CONFIGS,
    EXPERTS,
    MERGES,
    claim,
    finish,
)
from mergekit_breadcrumbs.demo.tasks import TASKS, Task, build_tokenizer, draw_cases
from mergekit_breadcrumbs.demo.training import (
    Encoded,
    accuracy,
    encode,
    new_model,
    quiet_transformers,
    reproducible,
    train,
)

HELD_OUT, TRAINING, BASE_TRAINING = 200, 3000, 500
"""Cases per task: for measuring only, for the expert, and for the base out of those."""

BASE_STEPS, EXPERT_STEPS = 300, 200
BASE_RATE, EXPERT_RATE = 4e-3, 6e-4

# What published configs use, at half weight each. Nothing is tuned to these tasks, for
# either merge: at such settings the two are nearly the same.
WEIGHT, DENSITY, GAMMA = 0.5, 0.9, 0.01

Scores = dict[str, dict[str, float]]


class Data(NamedTuple):
    """The cases of one task: the base's, the expert's, and those of neither."""

    base: Encoded
    expert: Encoded
    held_out: Encoded


def run_demo(out_dir: Path, *, force: bool = False, seed: int = 0) -> None:
    """Train a base and three experts, merge the experts twice, and print how all do.

    Everything is written to `out_dir`. A file `UNFINISHED` stands there from the first
    moment, and becomes `demo-results.json` in the last. The same seed gives the same
    files on the same machine with the same versions.

    Args:
        out_dir: A folder that is empty or not there yet.
        force: Replace an earlier demo in `out_dir`.
        seed: Decides the cases, the first weights and the order of training.

    Raises:
        click.UsageError: `out_dir` is not such a folder.
        click.ClickException: `mergekit-yaml` is missing, or failed.
    """
    mergekit_yaml = _find_mergekit_yaml()
    claim(out_dir, force=force)
    tokenizer = build_tokenizer()
    click.echo("Three tasks, each a line of text:")
    for task in TASKS:
        click.echo("  " + "".join(draw_cases(task, 1, seed)[0]))
    data = {task.name: _draw_data(tokenizer, task, seed) for task in TASKS}
    with reproducible(seed), quiet_transformers():
        _train_all(out_dir, tokenizer, data, seed)
        for method in MERGES:
            _merge(mergekit_yaml, out_dir, method)
        scores = _measure(out_dir, data)
    finish(out_dir, seed=seed, scores=scores)
    _print_table(scores)
    _print_next(mergekit_yaml, out_dir)


def _find_mergekit_yaml() -> str:
    folders = [os.path.dirname(sys.executable), sysconfig.get_path("scripts")]
    found = shutil.which("mergekit-yaml", path=os.pathsep.join(folders))
    if found is None:
        raise click.ClickException(
            f"the command mergekit-yaml must be in {' or '.join(folders)}; it is not."
            f" Install it with: {sys.executable} -m pip install mergekit"
        )
    return found


def _draw_data(tokenizer: PreTrainedTokenizerFast, task: Task, seed: int) -> Data:
    cases = draw_cases(task, HELD_OUT + TRAINING, seed)
    training = cases[HELD_OUT:]
    return Data(
        base=encode(tokenizer, training[:BASE_TRAINING]),
        expert=encode(tokenizer, training),
        held_out=encode(tokenizer, cases[:HELD_OUT]),
    )


def _train_all(
    out_dir: Path, tokenizer: PreTrainedTokenizerFast, data: dict[str, Data], seed: int
) -> None:
    base = new_model(tokenizer)
    few = [part.base for part in data.values()]
    train(base, few, steps=BASE_STEPS, rate=BASE_RATE, seed=seed, name=BASE)
    _save(base, tokenizer, out_dir / BASE)
    for task, name in EXPERTS.items():
        model = copy.deepcopy(base)
        own = [data[task].expert]
        train(model, own, steps=EXPERT_STEPS, rate=EXPERT_RATE, seed=seed, name=name)
        _save(model, tokenizer, out_dir / name)


def _save(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _merge(mergekit_yaml: str, out_dir: Path, method: str) -> None:
    config = out_dir / CONFIGS[method]
    config.write_text(_config(out_dir, method), encoding="utf-8")
    command = [mergekit_yaml, str(config), str(out_dir / MERGES[method])]
    click.echo(f"{'merging':<14} mergekit-yaml {CONFIGS[method]} {MERGES[method]}")
    run = subprocess.run(
        command,
        # Nothing is fetched: every path in the config is a folder on this machine.
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


def _config(out_dir: Path, method: str) -> str:
    # Absolute, so that the config means the same in every working directory. A string
    # of JSON is one of YAML, whatever characters a path has.
    base, *experts = (
        json.dumps(str(out_dir.resolve() / name), ensure_ascii=False)
        for name in (BASE, *EXPERTS.values())
    )
    lines = [f"merge_method: {method}", f"base_model: {base}", "models:"]
    lines += [f"  - model: {expert}" for expert in experts]
    lines += ["parameters:", f"  weight: {WEIGHT}"]
    if method == "breadcrumbs":
        lines += [f"  density: {DENSITY}", f"  gamma: {GAMMA}"]
    return "\n".join([*lines, "dtype: float32\n"])


def _measure(out_dir: Path, data: dict[str, Data]) -> Scores:
    scores: Scores = {}
    for name in (BASE, *EXPERTS.values(), *MERGES.values()):
        model = AutoModelForCausalLM.from_pretrained(out_dir / name)
        scores[name] = {
            task: accuracy(model, part.held_out) for task, part in data.items()
        }
    return scores


def _print_table(scores: Scores) -> None:
    click.echo(
        f"\nHeld-out cases answered exactly, in percent ({HELD_OUT} of each task).\n"
        f"Both merges use weight {WEIGHT}, breadcrumbs density {DENSITY} and gamma"
        f" {GAMMA}.\n"
    )
    table = Table("model", box=box.ASCII, show_edge=False, pad_edge=False)
    for task in (*EXPERTS, "mean"):
        table.add_column(task, justify="right")
    for name, row in scores.items():
        values = (*row.values(), sum(row.values()) / len(row))
        table.add_row(name, *(f"{value:.1f}" for value in values))
    Console().print(table)


def _print_next(mergekit_yaml: str, out_dir: Path) -> None:
    config = out_dir / CONFIGS["breadcrumbs"]
    ours = str(Path(mergekit_yaml).with_name("mergekit-breadcrumbs"))
    if shutil.which("mergekit-yaml") == mergekit_yaml:
        mergekit_yaml, ours = "mergekit-yaml", "mergekit-breadcrumbs"
    sparser = out_dir.resolve()
    sparser = sparser.with_name(f"{sparser.name}-0.5")
    target = sparser if out_dir.is_absolute() else Path(os.path.relpath(sparser))
    click.echo(
        f"\nmerged model  {out_dir / MERGES['breadcrumbs']}\n"
        f"its config    {config}\n\n"
        "See what the merge kept and dropped of each expert:\n"
        f"  {shlex.quote(ours)} inspect {shlex.quote(str(config))}\n\n"
        "Next, keep only half of each task vector:\n"
        f"  sed 's/density: .*/density: 0.5/' {shlex.quote(str(config))} |\n"
        f"    {shlex.quote(mergekit_yaml)} /dev/stdin {shlex.quote(str(target))}"
    )
