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

import click
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from mergekit_breadcrumbs.demo import folder
from mergekit_breadcrumbs.demo.folder import BASE, CONFIGS, EXPERTS, MERGES
from mergekit_breadcrumbs.demo.score_file import write_score_file
from mergekit_breadcrumbs.demo.small_file import make_file
from mergekit_breadcrumbs.demo.tasks import TASKS, Case, build_tokenizer, draw_cases
from mergekit_breadcrumbs.demo.training import (
    accuracy,
    encode,
    new_model,
    quiet_transformers,
    reproducible,
    train,
)
from mergekit_breadcrumbs.wording import visible_lines

HELD_OUT, TRAINING, BASE_TRAINING = 200, 3000, 500
"""Cases per task: for measuring only, for its expert, and of those for the base."""

BASE_STEPS, EXPERT_STEPS = 300, 200
BASE_RATE, EXPERT_RATE = 4e-3, 6e-4

# What published configs use, at half weight each. Neither merge is tuned to these
# tasks: at such settings the two are nearly the same.
WEIGHT, DENSITY, GAMMA = 0.5, 0.9, 0.01

Cases = dict[str, list[Case]]
Scores = dict[str, dict[str, float]]


def run_demo(out_dir: Path, *, force: bool = False, seed: int = 0) -> None:
    """Train a base and three experts, merge the experts twice, and compare them all.

    The same seed gives the same files on the same machine with the same versions: it
    decides the cases, the first weights and the order of training.

    Raises:
        click.UsageError: `out_dir` is neither empty nor, with `force`, a demo's.
        click.ClickException: `mergekit-yaml` is missing, or failed.
    """
    mergekit_yaml = _find_mergekit_yaml()
    folder.claim(out_dir, force=force)
    tokenizer = build_tokenizer()
    cases = {task.name: draw_cases(task, HELD_OUT + TRAINING, seed) for task in TASKS}
    click.echo("Three tasks, each a line of text:")
    for drawn in cases.values():
        click.echo("  " + "".join(drawn[0]))
    with reproducible(seed), quiet_transformers():
        _train_all(out_dir, tokenizer, cases, seed)
        for method in MERGES:
            _merge(mergekit_yaml, out_dir, method)
        scores = _measure(out_dir, tokenizer, cases)
        as_file = make_file(out_dir)
    write_score_file(out_dir, seed=seed, used=HELD_OUT + TRAINING)
    folder.finish(out_dir, seed=seed, scores=scores)
    _print_table(scores)
    click.echo(f"\n{visible_lines(as_file)}")
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


def _train_all(
    out_dir: Path, tokenizer: PreTrainedTokenizerFast, cases: Cases, seed: int
) -> None:
    training = {task: drawn[HELD_OUT:] for task, drawn in cases.items()}
    base = new_model(tokenizer)
    few = [encode(tokenizer, drawn[:BASE_TRAINING]) for drawn in training.values()]
    train(base, few, steps=BASE_STEPS, rate=BASE_RATE, seed=seed, name=BASE)
    base.save_pretrained(out_dir / BASE)
    tokenizer.save_pretrained(out_dir / BASE)
    for task, name in EXPERTS.items():
        model = copy.deepcopy(base)
        own = [encode(tokenizer, training[task])]
        train(model, own, steps=EXPERT_STEPS, rate=EXPERT_RATE, seed=seed, name=name)
        model.save_pretrained(out_dir / name)
        tokenizer.save_pretrained(out_dir / name)


def _merge(mergekit_yaml: str, out_dir: Path, method: str) -> None:
    config = out_dir / CONFIGS[method]
    config.write_text(_config_text(out_dir, method), encoding="utf-8")
    command = [mergekit_yaml, str(config), str(out_dir / MERGES[method])]
    click.echo(f"{'merging':<14} mergekit-yaml {CONFIGS[method]} {MERGES[method]}")
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


def _config_text(out_dir: Path, method: str) -> str:
    # Absolute, so that the config means the same in every working directory. A JSON
    # string is a YAML string, whatever characters the path has.
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


def _measure(out_dir: Path, tokenizer: PreTrainedTokenizerFast, cases: Cases) -> Scores:
    held_out = {t: encode(tokenizer, drawn[:HELD_OUT]) for t, drawn in cases.items()}
    scores = {}
    for name in folder.MODELS:
        model = AutoModelForCausalLM.from_pretrained(out_dir / name)
        scores[name] = {task: accuracy(model, data) for task, data in held_out.items()}
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
    for name, by_task in scores.items():
        values = (*by_task.values(), sum(by_task.values()) / len(by_task))
        table.add_row(name, *(f"{value:.1f}" for value in values))
    Console().print(table)


def _print_next(mergekit_yaml: str, out_dir: Path) -> None:
    config = out_dir / CONFIGS["breadcrumbs"]
    quoted = shlex.quote(str(config))
    ours = str(Path(mergekit_yaml).with_name("mergekit-breadcrumbs"))
    if shutil.which("mergekit-yaml") == mergekit_yaml:
        mergekit_yaml, ours = "mergekit-yaml", "mergekit-breadcrumbs"
    beside = str(out_dir.resolve())
    if not out_dir.is_absolute():
        beside = os.path.relpath(beside)
    scorer = shlex.quote(str(out_dir / folder.SCORE))
    text = (
        f"\nmerged model  {out_dir / MERGES['breadcrumbs']}\n"
        f"its config    {config}\n\n"
        "See what the merge kept and dropped of each expert:\n"
        f"  {shlex.quote(ours)} inspect {quoted}\n\n"
        "Next, keep only half of each task vector:\n"
        f"  sed 's/density: .*/density: 0.5/' {quoted} |\n"
        f"    {shlex.quote(mergekit_yaml)} /dev/stdin {shlex.quote(f'{beside}-0.5')}\n"
        "\nOr have the numbers found that score best, on lines that are not in the"
        " table\n(needs the extra `tune`; less than a minute):\n"
        f"  {shlex.quote(ours)} tune {quoted} {shlex.quote(f'{beside}-tuned')} \\\n"
        f"    --score {scorer}:score --validate {scorer}:validate"
    )
    click.echo(visible_lines(text))
