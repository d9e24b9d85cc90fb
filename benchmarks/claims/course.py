"""What is trained, tuned, merged and measured, in which order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from claims.arms import ARMS, SPACES
from claims.bed import (
    Group,
    Merge,
    compare_with_console,
    make_base,
    make_expert,
    measure,
    shapes,
    tune_arm,
)
from claims.encoder import RECIPES
from claims.run import Known, Runner

TUNED_ON = 4
TOO_EASY = 0.85
"""An expert is left out if the base has more than this of its accuracy."""

MAIN, WIDE = SPACES


class Plan(NamedTuple):
    """How much is measured."""

    tasks: int = 40
    seeds: tuple[int, ...] = (0, 1)
    orders: int = 3
    trials: int = 16
    steps: int = 40
    counts: tuple[int, ...] = (4, 8, 16, 24)
    scales: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)


QUICK = Plan(
    tasks=6, seeds=(0,), orders=1, trials=2, steps=10, counts=(4,), scales=(0.5, 1.0)
)

SETTINGS: dict[str, tuple[str, dict[str, float]]] = {
    "task arithmetic": ("task arithmetic", {}),
    "TIES 0.2": ("TIES", {"density": 0.2}),
    "breadcrumbs 0.1 / 0.01": ("breadcrumbs", {"density": 0.1, "gamma": 0.01}),
    "row 0.1 / 0.01": ("breadcrumbs, row", {"density": 0.1, "gamma": 0.01}),
    "breadcrumbs 0.1 / 0": ("gamma 0", {"density": 0.1}),
    "breadcrumbs 0.9 / 0.01": ("breadcrumbs", {"density": 0.9, "gamma": 0.01}),
}
"""Arms with density and gamma given, that nobody has tuned, for all scales."""


class Course(NamedTuple):
    """One order of a group's tasks; `own` are the experts' accuracies."""

    group: Group
    order: int
    tasks: tuple[int, ...]
    validation: tuple[float, ...]
    test: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.group.recipe} {self.group.seed} {self.order}"


def groups(plan: Plan) -> list[Group]:
    """Return all groups of experts."""
    return [Group(recipe, seed) for recipe, seed in product(RECIPES, plan.seeds)]


def courses(plan: Plan, known: Known) -> Iterator[Course]:
    """Yield every order for each recipe, of the tasks that are not too easy.

    The training seeds take turns.
    """
    for recipe, order in product(RECIPES, range(plan.orders)):
        group = Group(recipe, plan.seeds[order % len(plan.seeds)])
        results = {t: known[f"expert {group} {t}"] for t in range(plan.tasks)}
        hard = [
            task
            for task, found in results.items()
            if found["base validation"] <= TOO_EASY * found["expert validation"]
        ]
        tasks = random.Random(order).sample(hard, len(hard))
        yield Course(
            group,
            order,
            tuple(tasks),
            tuple(results[task]["expert validation"] for task in tasks),
            tuple(results[task]["expert test"] for task in tasks),
        )


def run_all(runner: Runner, plan: Plan) -> list[Course]:
    """Train, tune, freeze and measure; whatever is known already is not done again."""
    runner("base", {"base": (make_base, ())})
    experts = product(groups(plan), range(plan.tasks))
    runner("experts", {f"expert {g} {t}": (make_expert, (g, t)) for g, t in experts})
    found = list(courses(plan, runner.known))
    runner("tuning", dict(_tunings(found, plan)))
    runner("frozen", dict(_frozen(found, plan, runner.known)))
    runner("settings", dict(_settings(found, plan)))
    runner("mergekit-yaml", dict(_console(found, runner.known)))
    runner("shapes", {shape_key(c): (shapes, (c.group, c.tasks)) for c in found})
    return found


def shape_key(course: Course) -> str:
    """Return what names the shapes of a course's task vectors."""
    return f"shapes {course.name}"


def tuning_key(course: Course, arm: str, space: str) -> str:
    """Return what names the tuning of an arm on a course."""
    return f"tuned {course.name} {arm} {space}"


def counts(course: Course, plan: Plan) -> list[int]:
    """Return how many experts of a course are merged, the last time all of them."""
    return [*(n for n in plan.counts if n < len(course.tasks)), len(course.tasks)]


def arms_in(space: str) -> list[str]:
    """Return the arms that are tuned in a space: controls in the main one only."""
    return [name for name, arm in ARMS.items() if space == MAIN or not arm.control]


def counts_in(space: str, course: Course, plan: Plan) -> list[int]:
    """Return how many experts are merged with what was tuned in a space."""
    all_of_them = counts(course, plan)
    return all_of_them if space == MAIN else [all_of_them[0], all_of_them[-1]]


def frozen_merge(
    course: Course, arm: str, space: str, count: int, known: Known
) -> Merge:
    """Return the merge of the first experts of a course with what tuning found."""
    values = known[tuning_key(course, arm, space)]["values"]
    return Merge(course.group, arm, course.tasks[:count], tuple(sorted(values.items())))


def setting_merge(course: Course, setting: str, scale: float, count: int) -> Merge:
    """Return the merge of the first experts of a course with a given setting."""
    arm, given = SETTINGS[setting]
    values = tuple(sorted({**given, "lambda": scale}.items()))
    return Merge(course.group, arm, course.tasks[:count], values)


def with_settings(found: list[Course]) -> list[Course]:
    """Return the courses that all settings are measured on, one for each recipe."""
    return [course for course in found if course.order == 0]


def _tunings(found: list[Course], plan: Plan) -> Iterator[tuple[str, Any]]:
    for course, space in product(found, SPACES):
        for arm in arms_in(space):
            first = course.tasks[:TUNED_ON], course.validation[:TUNED_ON]
            arguments = (course.group, arm, space, *first, plan.trials)
            yield tuning_key(course, arm, space), (tune_arm, arguments)


def _frozen(found: list[Course], plan: Plan, known: Known) -> Iterator[tuple[str, Any]]:
    for course, space in product(found, SPACES):
        for arm, count in product(arms_in(space), counts_in(space, course, plan)):
            merge = frozen_merge(course, arm, space, count, known)
            yield repr(merge), (measure, (merge, "test"))


def _settings(found: list[Course], plan: Plan) -> Iterator[tuple[str, Any]]:
    for course in with_settings(found):
        numbers = [
            n for n in counts(course, plan) if n in (4, 8, 16, len(course.tasks))
        ]
        for setting, scale, count in product(SETTINGS, plan.scales, numbers):
            merge = setting_merge(course, setting, scale, count)
            yield repr(merge), (measure, (merge, "test"))


def _console(found: list[Course], known: Known) -> Iterator[tuple[str, Any]]:
    for course, arm in product(found, ARMS):
        if not ARMS[arm].random:
            merge = frozen_merge(course, arm, MAIN, TUNED_ON, known)
            yield f"console {merge!r}", (compare_with_console, (merge,))
