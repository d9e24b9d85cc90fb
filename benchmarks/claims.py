"""The paper's claims, measured on models trained on the spot.

A base and eight experts on handwritten digits, for several seeds: every method is tuned
with the same budget on pairs of tasks and frozen, and mergekit then merges one to eight
tasks with it. Prints Markdown; `--out DIR` also writes it there, with figures and with
JSON of every run. What is trained and measured is kept in `--cache`, and an interrupted
run goes on from there.

    python benchmarks/claims.py --out docs
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

# Before torch is imported, here and in the workers: one thread for each of them.
os.environ["OMP_NUM_THREADS"] = "1"

import click
import torch
from claims import figures, record, report
from claims.experts import Recipe
from claims.merging import METHODS
from claims.protocol import QUICK, Plan
from claims.run import Outcome, run
from claims.sanity import violations
from claims.work import Place

BORDER = "<!-- Written by benchmarks/claims.py, except for what is above. -->\n"
QUICK_RECIPE = Recipe(width=64, layers=2, base_steps=250, expert_steps=150)


def conditions(plan: Plan, recipe: Recipe) -> str:
    """What was trained, and on what it ran."""
    return (
        f"Seeds: {len(plan.seeds)}; base: {recipe.layers} layers of width"
        f" {recipe.width}; experts trained with {recipe.optimizer}; torch"
        f" {torch.__version__}, {platform.machine()}."
    )


def markdown(outcome: Outcome, plan: Plan, run_with: str) -> str:
    """All tables, with what a reader needs to know about them."""
    tuned = [f"{name} {len(METHODS[name].tuned)}" for name in METHODS]
    return "\n".join(
        [
            run_with,
            "",
            "## Accuracy relative to the expert's own, % (test data)",
            "",
            f"Every method was tuned with {plan.trials} settings, each tried on the"
            f" same pairs of tasks (number of pairs: {len(plan.pairs)}; validation"
            " data), and then frozen. Number of parameters tuned:"
            f" {'; '.join(tuned)}. Means over subsets and seeds ± standard errors over"
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
            "## Breadcrumbs with all eight tasks: the best accuracy, %, and the lambda"
            " that reaches it (validation data)",
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
    """Write the figures, and the Markdown below the introduction that is there."""
    figures.draw_claims(outcome, plan, out / f"{name}.png")
    figures.draw_ablation(outcome, plan, out / f"{name}-ablation.png")
    file = out / f"{name}.md"
    before = file.read_text() if file.exists() else ""
    introduction, border, _ = before.partition(BORDER)
    file.write_text(f"{introduction}{border}\n{text}" if border else text)


@click.command()
@click.option("--quick", is_flag=True, help="One seed, small: a smoke test.")
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw"]),
    default="sgd",
    show_default=True,
    help="Optimizer of the experts.",
)
@click.option("--seeds", type=click.IntRange(1), help="How many; 3, or 1 if quick.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write files here.")
@click.option(
    "--rewrite",
    is_flag=True,
    help="Measure nothing: write text and figures again from the JSON in --out.",
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
    quick: bool,
    optimizer: str,
    seeds: int | None,
    out: Path | None,
    rewrite: bool,
    cache: Path,
    processes: int,
) -> None:
    """Measure what the paper claims."""
    start = time.perf_counter()
    name = "claims" if optimizer == "sgd" else f"claims-{optimizer}"
    if rewrite:
        if out is None:
            raise click.UsageError("--rewrite needs --out")
        saved = (out / f"{name}.json").read_text()
        outcome, plan, run_with = record.from_json(saved)
        write(outcome, plan, markdown(outcome, plan, run_with), out, name)
        return
    plan = QUICK if quick else Plan()
    if seeds:
        plan = plan._replace(seeds=tuple(range(seeds)))
    recipe = (QUICK_RECIPE if quick else Recipe())._replace(optimizer=optimizer)
    folder = "-".join(map(str, (*recipe[:3], recipe.expert_steps, optimizer)))
    outcome = run(Place(cache.absolute() / folder, recipe), plan, processes)
    run_with = conditions(plan, recipe)
    text = markdown(outcome, plan, run_with)
    print(text)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write(outcome, plan, text, out, name)
        (out / f"{name}.json").write_text(record.to_json(outcome, plan, run_with))
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
