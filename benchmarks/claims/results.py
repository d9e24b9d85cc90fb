"""What was kept, by how much one method is ahead of another, and what that says."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import fmean, stdev
from typing import NamedTuple

from claims.bed import Merge
from claims.course import (
    MAIN,
    SETTINGS,
    Course,
    Plan,
    frozen_merge,
    setting_merge,
    tuning_key,
    with_settings,
)
from claims.run import Known

PLAIN = "task arithmetic"
BREADCRUMBS = ("breadcrumbs", "breadcrumbs, row")
ALLOWED = 0.02
"""So much less than the best scale keeps, a setting that keeps working may keep."""


def shares(course: Course, merge: Merge, known: Known) -> list[float]:
    """Return a merge's accuracy on each of its tasks over that of the task's expert."""
    own = course.test[: len(merge.tasks)]
    found = known[repr(merge)]["accuracy"]
    return [accuracy / best for accuracy, best in zip(found, own, strict=True)]


def kept(course: Course, merge: Merge, known: Known) -> float:
    """Return the mean of `shares`."""
    return fmean(shares(course, merge, known))


def base_keeps(course: Course, count: int, known: Known) -> float:
    """Return what the base itself keeps, not merged with anything."""
    names = [f"expert {course.group} {task}" for task in course.tasks[:count]]
    own = course.test[:count]
    return fmean(
        known[n]["base test"] / best for n, best in zip(names, own, strict=True)
    )


class Lead(NamedTuple):
    """By how much one merge keeps more than another: mean, and its standard errors."""

    mean: float
    over_tasks: float
    over_orders: float

    @property
    def error(self) -> float:
        return max(self.over_tasks, self.over_orders)

    @property
    def ahead(self) -> bool:
        return self.mean > 2 * self.error


def lead(
    found: list[Course],
    one: Callable[[Course], Merge],
    other: Callable[[Course], Merge],
    known: Known,
) -> Lead:
    """Compare two merges of each course, task by task.

    For the error over tasks, the differences of a task are averaged over orders first;
    for that over orders, those of an order over its tasks.
    """
    by_task, by_order = defaultdict(list), []
    for course in found:
        pair = [shares(course, merge(course), known) for merge in (one, other)]
        differences = [a - b for a, b in zip(*pair, strict=True)]
        by_order.append(fmean(differences))
        for task, difference in zip(course.tasks, differences, strict=False):
            by_task[task].append(difference)
    return Lead(fmean(by_order), *map(_error, (map(fmean, by_task.values()), by_order)))


def _error(values: Iterator[float] | list[float]) -> float:
    values = list(values)
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def better(course: Course, space: str, known: Known) -> str:
    """Return the arm of breadcrumbs that scored higher in tuning."""
    return max(
        BREADCRUMBS, key=lambda arm: known[tuning_key(course, arm, space)]["score"]
    )


def frozen(
    arm: str, known: Known, count: int = 0, space: str = MAIN
) -> Callable[[Course], Merge]:
    """Return what merges so many experts of a course, or all, with a tuned arm."""
    return lambda course: frozen_merge(
        course, arm, space, count or len(course.tasks), known
    )


def frozen_better(known: Known, count: int = 0) -> Callable[[Course], Merge]:
    """Return what merges experts with the better arm of breadcrumbs."""
    return lambda course: frozen(better(course, MAIN, known), known, count)(course)


def best_scale(
    course: Course, setting: str, count: int, plan: Plan, known: Known
) -> tuple[float, float]:
    """Return the most that a setting keeps at any scale, and that scale."""
    return max(
        (kept(course, setting_merge(course, setting, scale, count), known), scale)
        for scale in plan.scales
    )


def at_distance(
    course: Course, setting: str, distance: float, plan: Plan, known: Known
) -> float | None:
    """Return what a setting keeps at a distance from the base, all experts merged.

    Between the scales that were measured, it is read off a straight line; outside, it
    is not known.
    """
    merges = [
        setting_merge(course, setting, scale, len(course.tasks))
        for scale in plan.scales
    ]
    points = sorted(
        (known[repr(merge)]["distance"], kept(course, merge, known)) for merge in merges
    )
    for (a, low), (b, high) in pairwise(points):
        if a <= distance <= b:
            return low + (high - low) * (distance - a) / (b - a)
    return None


class Verdict(NamedTuple):
    """Whether a claim holds for a recipe, and the figures that say so."""

    claim: str
    holds: bool
    figures: str


def verdicts(found: list[Course], plan: Plan, known: Known) -> list[Verdict]:
    """Judge the claims, for the courses of one recipe, as `claims.py` says."""
    ours, by_tensor = frozen_better(known), frozen(BREADCRUMBS[0], known)
    leads = {
        "better as tasks are added": (ours, PLAIN),
        "because of the large": (by_tensor, "gamma 0"),
        "because of the small": (by_tensor, "random mask"),
    }
    judged = []
    for claim, (one, other) in leads.items():
        by = lead(found, one, frozen(other, known), known)
        judged.append(Verdict(claim, by.ahead, f"{percent(by)} against {other}"))
    (course,) = with_settings(found)
    own = kept(course, ours(course), known)
    best = max(
        best_scale(course, setting, len(course.tasks), plan, known)[0]
        for setting, (arm, _) in SETTINGS.items()
        if arm in BREADCRUMBS
    )
    figures = f"{100 * own:.1f} of {100 * best:.1f}"
    one = Verdict("one setting keeps working", own >= best - ALLOWED, figures)
    return [judged[0], one, *judged[1:]]


def percent(by: Lead) -> str:
    """Return a lead in points, with its error.

    >>> percent(Lead(0.0512, 0.01, 0.012))
    '+5.1 ± 1.2'
    """
    error = "?" if math.isinf(by.error) else f"{100 * by.error:.1f}"
    return f"{100 * by.mean:+.1f} ± {error}"
