"""The tables."""

from __future__ import annotations

from collections import defaultdict
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from claims.data import TASKS
from claims.merging import METHODS
from claims.protocol import Plan
from claims.run import Outcome
from claims.work import BASE, EXPERT, Job

Curve = dict[Any, tuple[float, float]]


def curve(outcome: Outcome, jobs: list[Job], by: Any) -> Curve:
    """Return mean and standard error of the normalised accuracy for each value of `by`.

    The mean over subsets is taken for each seed first; the error is that over seeds,
    and 0 where there is only one.
    """
    found: dict[Any, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        found[by(job)][job.seed].append(outcome.measured.normalised(job))
    return {name: _mean(seeds) for name, seeds in found.items()}


def _mean(seeds: dict[int, list[float]]) -> tuple[float, float]:
    means = [fmean(values) for values in seeds.values()]
    error = stdev(means) / sqrt(len(means)) if len(means) > 1 else 0.0
    return fmean(means), error


def by_method(outcome: Outcome, stage: str, by: Any) -> dict[str, Curve]:
    """Return a curve for each method from the jobs of a stage."""
    return {
        name: curve(outcome, [j for j in outcome.stage(stage) if j.method == name], by)
        for name in METHODS
    }


def _percent(value: tuple[float, float]) -> str:
    mean, error = value
    return f"{100 * mean:.1f} ± {100 * error:.1f}" if error else f"{100 * mean:.1f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def main_table(outcome: Outcome, plan: Plan) -> list[str]:
    """Normalised accuracy by number of tasks, in percent, one line per method."""
    frozen = by_method(outcome, "frozen", lambda job: len(job.tasks))
    shared = by_method(outcome, "shared weights", lambda job: None)
    rescaled = by_method(outcome, "rescaled", lambda job: None)
    heads = [f"{size}" for size in plan.sizes]
    lines = [
        _row("method", *heads, "8, weights 2/8", "8, scale tuned for 8"),
        "|" + "---|" * (len(heads) + 3),
    ]
    for name in METHODS:
        cells = [frozen[name][size] for size in plan.sizes]
        cells += [shared[name][None], rescaled[name][None]]
        lines.append(_row(name, *map(_percent, cells)))
    base = [
        job
        for job in outcome.stage("reference")
        if job.method == BASE and job.part == "test"
    ]
    lines.append(
        _row(
            "base, not merged",
            *["" for _ in heads[:-1]],
            _percent(curve(outcome, base, lambda job: None)[None]),
            "",
            "",
        )
    )
    return lines


def settings_table(outcome: Outcome) -> list[str]:
    """The frozen settings of every seed."""
    seeds = sorted({seed for seed, _ in outcome.tuned})
    lines = [
        _row("method", *[f"seed {seed}" for seed in seeds]),
        "|" + "---|" * (len(seeds) + 1),
    ]
    for name in METHODS:
        cells = [
            ", ".join(f"{k} {v:g}" for k, v in outcome.tuned[seed, name].items())
            for seed in seeds
        ]
        lines.append(_row(name, *cells))
    return lines


def task_table(outcome: Outcome) -> list[str]:
    """Base and experts on test data, and the shape of the task vectors."""
    shapes = ("kurtosis", "top 1 %", "top 10 %", "relative norm")
    lines = [
        _row("task", "base, %", "expert, %", "base/expert, %", *shapes),
        "|" + "---|" * 8,
    ]
    found = {
        (job.seed, job.method): outcome.measured.results[job.key]
        for job in outcome.stage("reference")
        if job.part == "test"
    }
    seeds = sorted({seed for seed, _ in found})

    def mean(of: Any) -> float:
        return fmean(of(seed) for seed in seeds)

    for t, task in enumerate(TASKS):
        base = mean(lambda seed, t=t: found[seed, BASE]["accuracy"][t])
        expert = mean(lambda seed, t=t: found[seed, EXPERT]["accuracy"][t])
        cells = [f"{100 * x:.1f}" for x in (base, expert, base / expert)]
        for shape in shapes:
            value = mean(lambda s, t=t, n=shape: found[s, EXPERT]["shapes"][t][n])
            cells.append(f"{value:.1f}" if shape == "kurtosis" else f"{value:.3f}")
        lines.append(_row(task.name, *cells))
    return lines


def ablation_table(outcome: Outcome, plan: Plan) -> list[str]:
    """The best scale at each density and gamma, and the accuracy it reaches."""
    jobs = outcome.stage("ablation")
    grid = curve(outcome, jobs, lambda job: job.parameters)
    lines = [
        _row("density", *[f"gamma {gamma:g}" for gamma in plan.gammas]),
        "|" + "---|" * (len(plan.gammas) + 1),
    ]
    for density in plan.densities:
        cells = []
        for gamma in plan.gammas:
            line = {
                dict(setting)["lambda"]: value[0]
                for setting, value in grid.items()
                if dict(setting)["density"] == density
                and dict(setting)["gamma"] == gamma
            }
            best = max(line, key=lambda scale: line[scale])
            cells.append(f"{100 * line[best]:.1f} at {best:g}")
        lines.append(_row(f"{density:g}", *cells))
    return lines


def scale_table(outcome: Outcome, plan: Plan, gamma: float = 0.01) -> list[str]:
    """The accuracy of each density at each scale, for one gamma of the ablation."""
    grid = curve(outcome, outcome.stage("ablation"), lambda job: job.parameters)
    lines = [
        _row("density", *[f"lambda {scale:g}" for scale in plan.ablation_scales]),
        "|" + "---|" * (len(plan.ablation_scales) + 1),
    ]
    for density in plan.densities:
        cells = [
            _percent(grid[("density", density), ("gamma", gamma), ("lambda", scale)])
            for scale in plan.ablation_scales
        ]
        lines.append(_row(f"{density:g}", *cells))
    return lines
