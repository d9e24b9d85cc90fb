"""The protocol: what is tuned on what, what is frozen, and what is then measured."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations, product
from statistics import fmean
from typing import Any, NamedTuple

from claims.data import TASKS
from claims.merging import METHODS, Parameters, draw_trials
from claims.work import BASE, EXPERT, Job

ALL = tuple(range(len(TASKS)))
PAIRS = ((0, 5), (1, 4), (3, 6))
"""The pairs of tasks that settings are tuned on."""


class Plan(NamedTuple):
    """How much is measured."""

    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 24
    pairs: tuple[tuple[int, int], ...] = PAIRS
    sizes: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    subsets: int = 20
    scales: tuple[float, ...] = (
        *(0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7),
        *(1.0, 1.5, 2.0, 3.0),
    )
    densities: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.9)
    gammas: tuple[float, ...] = (0.0, 0.0025, 0.006, 0.01, 0.02)
    ablation_scales: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5)


QUICK = Plan(
    seeds=(0,),
    trials=4,
    pairs=PAIRS[:1],
    sizes=(1, 2, 8),
    subsets=3,
    scales=(0.1, 0.3, 1.0),
    densities=(0.1, 0.5),
    gammas=(0.0, 0.01),
    ablation_scales=(0.3, 1.0),
)


def subsets(size: int, count: int) -> list[tuple[int, ...]]:
    """All subsets of the tasks of one size, or a fixed sample of them.

    >>> [len(subsets(size, 20)) for size in range(1, 9)]
    [8, 20, 20, 20, 20, 20, 8, 1]
    """
    every = list(combinations(ALL, size))
    if len(every) <= count:
        return every
    return sorted(random.Random(size).sample(every, count))


def reference_jobs(plan: Plan) -> list[Job]:
    """Base and experts on every task, on both parts."""
    return [
        Job("reference", seed, who, part=part)
        for seed, who, part in product(plan.seeds, (BASE, EXPERT), PARTS)
    ]


PARTS = ("validation", "test")


def tuning_jobs(plan: Plan) -> list[Job]:
    """Every trial of every method on every pair, on validation data."""
    return [
        Job("tuning", seed, name, _frozen(trial), tasks=pair)
        for seed, (name, method) in product(plan.seeds, METHODS.items())
        for trial in draw_trials(method, plan.trials)
        for pair in plan.pairs
    ]


def _frozen(parameters: Parameters) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(parameters.items()))


class Measured:
    """Every result so far, and the paper's metric."""

    def __init__(self) -> None:
        self.results: dict[str, dict[str, Any]] = {}

    def normalised(self, job: Job) -> float:
        """Accuracy over the expert's own, mean over the job's tasks."""
        own = self._accuracy(Job("reference", job.seed, EXPERT, part=job.part))
        mine = self._accuracy(job)
        return fmean(a / own[t] for a, t in zip(mine, job.tasks, strict=True))

    def _accuracy(self, job: Job) -> list[float]:
        return self.results[job.key]["accuracy"]

    def best(self, jobs: list[Job], of: Callable[[Job], Any]) -> dict[Any, Parameters]:
        """Return the best setting on average, the first of equals, for each `of`."""
        scores: dict[Any, dict[tuple[tuple[str, float], ...], list[float]]] = {}
        for job in jobs:
            tried = scores.setdefault(of(job), {})
            tried.setdefault(job.parameters, []).append(self.normalised(job))
        return {
            name: dict(max(tried, key=lambda setting: fmean(tried[setting])))
            for name, tried in scores.items()
        }


Settings = dict[tuple[int, str], Parameters]


def frozen_jobs(plan: Plan, tuned: Settings) -> list[Job]:
    """Every method with its frozen setting on every subset, on test data."""
    return [
        Job("frozen", seed, name, _frozen(parameters), tasks=tasks, part="test")
        for (seed, name), parameters in tuned.items()
        for size in plan.sizes
        for tasks in subsets(size, plan.subsets)
    ]


def shared_jobs(tuned: Settings) -> list[Job]:
    """The same settings for all tasks, with weights of 2 / 8 where pairs had 1."""
    weight = 2 / len(ALL)
    return [
        Job("shared weights", seed, name, _frozen(parameters), weight, part="test")
        for (seed, name), parameters in tuned.items()
    ]


def sensitivity_jobs(plan: Plan, tuned: Settings) -> list[Job]:
    """Every method's frozen setting at every scale, for all tasks."""
    return [
        Job("sensitivity", seed, name, _frozen({**parameters, "lambda": scale}))
        for (seed, name), parameters in tuned.items()
        for scale in plan.scales
    ]


def rescaled_jobs(best: Settings) -> list[Job]:
    """On test data, the scale that is best for all tasks on validation data."""
    return [
        Job("rescaled", seed, name, _frozen(parameters), part="test")
        for (seed, name), parameters in best.items()
    ]


def ablation_jobs(plan: Plan) -> list[Job]:
    """Breadcrumbs at each density, gamma and scale, for all tasks."""
    grid = product(plan.seeds, plan.densities, plan.gammas, plan.ablation_scales)
    return [
        Job(
            "ablation",
            seed,
            "breadcrumbs",
            _frozen({"density": density, "gamma": gamma, "lambda": scale}),
        )
        for seed, density, gamma, scale in grid
    ]
