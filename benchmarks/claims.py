"""The paper's claims, measured on models trained on the spot.

A base and eight experts on handwritten digits, for several seeds; every method is tuned
with the same budget on pairs of tasks, frozen, and merged for one to eight tasks by
mergekit. Prints Markdown; `--out DIR` also writes figures and JSON with every run. What
is trained and measured is kept in `--cache`, and an interrupted run goes on from there.

    python benchmarks/claims.py --out docs
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

# Before torch is imported, here and in the workers: one thread for each of them.
os.environ["OMP_NUM_THREADS"] = "1"

import click
import torch
from claims import figures, report
from claims.data import TASKS
from claims.experts import Recipe
from claims.merging import METHODS
from claims.protocol import QUICK, Plan
from claims.run import Outcome, run
from claims.sanity import violations
from claims.work import Place

QUICK_RECIPE = Recipe(width=64, layers=2, base_steps=250, expert_steps=150)


def markdown(outcome: Outcome, plan: Plan, recipe: Recipe) -> str:
    """All tables with what a reader needs to know about them."""
    frozen = [f"{name}: {len(METHODS[name].tuned)}" for name in METHODS]
    return "\n".join(
        [
            f"{len(plan.seeds)} seed(s), experts trained with {recipe.optimizer}, base"
            f" of {recipe.layers} layers and width {recipe.width}, torch"
            f" {torch.__version__}, {platform.machine()}.",
            "",
            "## Accuracy over the expert's own, % (test data)",
            "",
            f"Each method was tuned with {plan.trials} settings on {len(plan.pairs)}"
            " pair(s) of tasks (validation data), then frozen. Numbers that were tuned:"
            f" {'; '.join(frozen)}. Mean over subsets and seeds ± standard error over"
            " seeds.",
            "",
            *report.main_table(outcome, plan),
            "",
            "## Frozen settings",
            "",
            *report.settings_table(outcome),
            "",
            "## Base, experts and task vectors (test data)",
            "",
            *report.task_table(outcome),
            "",
            "## Breadcrumbs with all eight tasks: best, and at which lambda, %"
            " (validation data)",
            "",
            *report.ablation_table(outcome, plan),
            "",
            "## Breadcrumbs with all eight tasks and gamma 0.01, by lambda, %"
            " (validation data)",
            "",
            *report.scale_table(outcome, plan),
            "",
        ]
    )


def write(outcome: Outcome, plan: Plan, text: str, out: Path, name: str) -> None:
    """Write the figures, the Markdown and the JSON."""
    out.mkdir(parents=True, exist_ok=True)
    figures.draw_claims(outcome, plan, out / f"{name}.png")
    figures.draw_ablation(outcome, plan, out / f"{name}-ablation.png")
    (out / f"{name}.md").write_text(text)
    runs = ",\n".join(json.dumps(entry) for entry in report.every_run(outcome))
    head = json.dumps(
        {
            "tasks": [task.name for task in TASKS],
            "plan": plan._asdict(),
            "CPU minutes": round(outcome.cpu / 60, 1),
            "mergekit-yaml": outcome.console,
        }
    )
    (out / f"{name}.json").write_text(f'{head[:-1]},\n"runs": [\n{runs}\n]}}\n')


@click.command()
@click.option("--quick", is_flag=True, help="One seed, small: a smoke test.")
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw"]),
    default="sgd",
    show_default=True,
    help="What the experts are trained with.",
)
@click.option("--seeds", type=click.IntRange(1), help="How many; 3, or 1 if quick.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write files here.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path(".claims-cache"),
    show_default=True,
    help="Checkpoints and results, kept for the next run.",
)
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
def main(
    quick: bool,
    optimizer: str,
    seeds: int | None,
    out: Path | None,
    cache: Path,
    processes: int,
) -> None:
    """Measure what the paper claims."""
    start = time.perf_counter()
    plan = QUICK if quick else Plan()
    if seeds:
        plan = plan._replace(seeds=tuple(range(seeds)))
    recipe = (QUICK_RECIPE if quick else Recipe())._replace(optimizer=optimizer)
    name = "-".join(map(str, (*recipe[:3], recipe.expert_steps, optimizer)))
    outcome = run(Place(cache.absolute() / name, recipe), plan, processes)
    text = markdown(outcome, plan, recipe)
    print(text)
    if out:
        name = "claims" if optimizer == "sgd" else f"claims-{optimizer}"
        write(outcome, plan, text, out, name)
    minutes = (time.perf_counter() - start) / 60
    click.echo(
        f"{minutes:.1f} minutes; {outcome.cpu / 60:.1f} of CPU time in the workers,"
        " earlier runs included",
        err=True,
    )
    if wrong := violations(outcome, plan):
        raise click.ClickException("\n".join(wrong))


if __name__ == "__main__":
    main()
