"""The demo from start to end."""

from __future__ import annotations

import copy
import os
import shlex
import shutil
from pathlib import Path
from statistics import fmean

import click
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerFast

from mergekit_breadcrumbs.demo import folder
from mergekit_breadcrumbs.demo.folder import BASE, CONFIGS, EXPERTS, MERGES, TUNED
from mergekit_breadcrumbs.demo.merging import (
    DENSITY,
    GAMMA,
    LAMBDA,
    SCALES,
    WEIGHT,
    best_scale,
    find_mergekit_yaml,
    load,
    merge,
)
from mergekit_breadcrumbs.demo.score_file import write_score_file
from mergekit_breadcrumbs.demo.small_file import make_file
from mergekit_breadcrumbs.demo.tasks import TASKS, Case, build_tokenizer, draw_cases
from mergekit_breadcrumbs.demo.training import (
    encode,
    measure,
    new_model,
    quiet_transformers,
    reproducible,
    train,
)
from mergekit_breadcrumbs.wording import visible_lines

HELD_OUT, TRAINING, BASE_TRAINING = 200, 2000, 500
"""Cases per task: for the table only, for its expert, and of those for the base.

As many as for the table are there to choose a scale by.
"""

BASE_STEPS, EXPERT_STEPS = 250, 120
BASE_RATE, EXPERT_RATE = 4e-3, 2e-4
BASE_BATCH, EXPERT_BATCH = 128, 64  # lines in a step

Cases = dict[str, list[Case]]
Scores = dict[str, dict[str, float]]


def run_demo(out_dir: Path, *, force: bool = False, seed: int = 0) -> None:
    """Train a base and eight experts, merge the experts in two ways, and compare all.

    The same seed gives the same files on the same machine with the same versions: it
    decides the cases, the first weights and the order of training.

    Raises:
        click.UsageError: `out_dir` is neither empty nor, with `force`, a demo's.
        click.ClickException: `mergekit-yaml` is missing, or failed.
    """
    mergekit_yaml = find_mergekit_yaml()
    folder.claim(out_dir, force=force)
    tokenizer = build_tokenizer()
    drawn = {t.name: draw_cases(t, TRAINING + 2 * HELD_OUT, seed) for t in TASKS}
    click.echo("Eight tasks, each a line of text:")
    for cases in drawn.values():
        click.echo("  " + "".join(cases[0]))
    table, other = (
        {task: encode(tokenizer, cases[part]) for task, cases in drawn.items()}
        for part in (slice(HELD_OUT), slice(HELD_OUT + TRAINING, None))
    )
    with reproducible(seed), quiet_transformers():
        _train_all(out_dir, tokenizer, drawn, seed)
        for method, name in MERGES.items():
            merge(mergekit_yaml, out_dir, method, name, LAMBDA)
        scales = {method: best_scale(out_dir, method, other) for method in TUNED}
        for method, name in TUNED.items():
            merge(mergekit_yaml, out_dir, method, name, scales[method])
        scores = {name: measure(load(out_dir, name), table) for name in folder.MODELS}
        as_file = make_file(out_dir)
    write_score_file(out_dir, seed=seed, used=TRAINING + 2 * HELD_OUT)
    folder.finish(out_dir, seed=seed, scales=scales, scores=scores)
    _print_table(scores, scales)
    click.echo(f"\n{visible_lines(as_file)}")
    _print_next(mergekit_yaml, out_dir)


def _train_all(
    out_dir: Path, tokenizer: PreTrainedTokenizerFast, cases: Cases, seed: int
) -> None:
    training = {task: drawn[HELD_OUT:][:TRAINING] for task, drawn in cases.items()}
    base = new_model(tokenizer)
    few = [encode(tokenizer, drawn[:BASE_TRAINING]) for drawn in training.values()]
    train(
        base,
        few,
        steps=BASE_STEPS,
        rate=BASE_RATE,
        batch=BASE_BATCH,
        seed=seed,
        name=BASE,
    )
    base.save_pretrained(out_dir / BASE)
    tokenizer.save_pretrained(out_dir / BASE)
    for task, name in EXPERTS.items():
        model = copy.deepcopy(base)
        own = [encode(tokenizer, training[task])]
        train(
            model,
            own,
            steps=EXPERT_STEPS,
            rate=EXPERT_RATE,
            batch=EXPERT_BATCH,
            seed=seed,
            name=name,
        )
        model.save_pretrained(out_dir / name)
        tokenizer.save_pretrained(out_dir / name)


def _print_table(scores: Scores, scales: dict[str, float]) -> None:
    scales_tried = ", ".join(map(str, SCALES))
    click.echo(
        f"\nHeld-out cases answered exactly, in percent ({HELD_OUT} of each task): by"
        " the base,\nby each task's own expert, and by merges of all experts with"
        f" weight {WEIGHT:g},\nbreadcrumbs by row at density {DENSITY}, gamma {GAMMA}."
        f" Lambda is {LAMBDA:g}, or the best\nof {scales_tried} on other cases.\n"
    )
    table = Table("\n\ntask", box=box.ASCII, show_edge=False, pad_edge=False)
    for name in (BASE, "expert"):
        table.add_column(f"\n\n{name}", justify="right")
    merges = [*MERGES.values(), *TUNED.values()]
    lambdas = [LAMBDA] * len(MERGES) + list(scales.values())
    for name, scale in zip(merges, lambdas, strict=True):
        method = name.removeprefix("merged-").removesuffix("-tuned")
        first, _, last = method.rpartition("_")
        heading = f"{first}\n{last}\nlambda {scale:g}"
        table.add_column(heading, justify="right")
    columns = [
        {task: scores[BASE][task] for task in EXPERTS},
        {task: scores[name][task] for task, name in EXPERTS.items()},
        *(scores[name] for name in merges),
    ]
    for task in EXPERTS:
        table.add_row(task, *(f"{column[task]:.1f}" for column in columns))
    table.add_section()
    table.add_row("mean", *(f"{fmean(column.values()):.1f}" for column in columns))
    Console().print(table)


def _print_next(mergekit_yaml: str, out_dir: Path) -> None:
    config = out_dir / CONFIGS[MERGES["breadcrumbs"]]
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
        "Next, keep half of each task vector, and add less of it:\n"
        f"  sed 's/density: .*/density: 0.5/; s/lambda: .*/lambda: 0.3/' {quoted} |\n"
        f"    {shlex.quote(mergekit_yaml)} /dev/stdin {shlex.quote(f'{beside}-0.5')}\n"
        "\nOr have the numbers found that score best, on lines that are not in the"
        " table\n(needs the extra `tune`; less than a minute):\n"
        f"  {shlex.quote(ours)} tune {quoted} {shlex.quote(f'{beside}-tuned')} \\\n"
        f"    --score {scorer}:score --validate {scorer}:validate"
    )
    click.echo(visible_lines(text))
