"""Do breadcrumbs keep what many experts know? A course over 40 tasks.

Experts of one pretrained encoder (`claims/encoder.py`), each trained on one of 40 tasks
of real texts (`claims/texts.py`), with AdamW and with SGD. An expert is left out if the
base comes within 85 % of it on validation data. In three orders of the tasks, which
take turns between two training seeds, every merge method is tuned on the first four
tasks (validation data, 16 trials each, by the engine of `mergekit-breadcrumbs tune`),
in the space that the authors' code searches and in a wide one. What it found is frozen,
and 4, 8, 16, 24 and all experts are merged and measured on test data. What counts is a
merge's accuracy on each task as a share of that task's expert's, averaged over tasks.

Written before the run, what counts as the paper's claims holding, for each recipe, in
the authors' space. "Breadcrumbs" are those by tensor or by row, in each order those
that scored higher in tuning. "Ahead" means by more than twice the standard error of the
paired differences; of the two errors, that over tasks and that over orders, the larger.

- "Better as tasks are added": with all tasks, breadcrumbs are ahead of task
  arithmetic.
- "One setting keeps working": with all tasks, in the first order, the frozen setting of
  breadcrumbs keeps at most two points less than the best of what breadcrumbs keep in
  settings and at scales that are tried with all tasks.
- "Because of the large": with all tasks, breadcrumbs by tensor are ahead of the same
  method tuned with gamma 0.
- "Because of the small": likewise, of task arithmetic with a random mask, whose density
  is tuned in the same range.

Beside this, settings that nobody has tuned are measured at seven scales, in the first
order. All is kept in `--cache`, and an interrupted run goes on from there. Prints
Markdown; `--out` also writes it there, below the introduction that is there, with a
figure and with JSON of all that was measured.

    python benchmarks/claims.py --out docs
"""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

# Before torch is imported, here and in the workers: one thread for each of them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import click
import torch
from claims import figures, report
from claims.bed import Place, task_of
from claims.course import QUICK, Plan, courses, run_all
from claims.record import Record, from_json
from claims.run import Known, Runner

BORDER = "<!-- Written by benchmarks/claims.py, except for what is above. -->\n"


def measured(plan: Plan, folder: Path, processes: int) -> Record:
    """Run what has not been run, and return everything."""
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder, plan.tasks, plan.steps)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        runner = Runner(place, pool)
        run_all(runner, plan)
    names = [task_of(place, task).name for task in range(plan.tasks)]
    return Record(conditions(plan, runner.known), plan, names, runner.known)


def conditions(plan: Plan, known: Known) -> str:
    """Return what was measured, on what it ran, and for how long."""
    minutes = sum(entry.get("cpu", 0) for entry in known.values()) / 60
    return (
        f"Tasks: {plan.tasks}; training seeds: {len(plan.seeds)}; orders:"
        f" {plan.orders}; trials: {plan.trials}; torch {torch.__version__},"
        f" {platform.machine()}; {minutes:.0f} minutes of CPU time."
    )


def write(record: Record, text: str, out: Path) -> None:
    """Write figure, JSON, and Markdown below the introduction that is there."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "claims.md"
    before = file.read_text() if file.exists() else ""
    introduction, border, _ = before.partition(BORDER)
    file.write_text(f"{introduction}{border}\n{text}" if border else text)
    found = list(courses(record.plan, record.known))
    figures.draw(found, record.plan, record.known, out / "claims.png")
    (out / "claims.json").write_text(record.to_json())


@click.command()
@click.option("--quick", is_flag=True, help="A few tasks, once: to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write files here.")
@click.option(
    "--rewrite",
    is_flag=True,
    help="Measure nothing: write text and figure again from the JSON in --out.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path(".claims-cache"),
    show_default=True,
    help="Checkpoints and results, kept for the next run.",
)
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
def main(
    quick: bool, out: Path | None, rewrite: bool, cache: Path, processes: int
) -> None:
    """Measure what the paper claims, over many tasks."""
    start, plan = time.perf_counter(), QUICK if quick else Plan()
    if rewrite and out is None:
        raise click.UsageError("--rewrite needs --out")
    if rewrite and out:
        record = from_json((out / "claims.json").read_text())
    else:
        name = "quick" if quick else "whole"
        record = measured(plan, cache.resolve() / name, processes)
    found = list(courses(record.plan, record.known))
    lines = [record.conditions, "", *report.markdown(found, record.plan, record.known)]
    text = "\n".join(lines)
    print(text)
    if out:
        write(record, text, out)
    click.echo(f"{(time.perf_counter() - start) / 60:.1f} minutes", err=True)


if __name__ == "__main__":
    main()
