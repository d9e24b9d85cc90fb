"""The figure: what is kept by number of experts, by scale, and by distance."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from claims.course import (
    MAIN,
    SETTINGS,
    Course,
    Plan,
    arms_in,
    counts_in,
    setting_merge,
)
from claims.encoder import RECIPES
from claims.report import of_recipe
from claims.results import frozen, kept
from claims.run import Known

STYLES = {
    "task arithmetic": ("#444444", "o", "-"),
    "TIES": ("#3b75af", "s", "-"),
    "DARE": ("#8d69b8", "^", "-"),
    "breadcrumbs": ("#d1352b", "D", "-"),
    "breadcrumbs, row": ("#ef8636", "v", "-"),
    "breadcrumbs_ties": ("#519e3e", "P", "-"),
    "gamma 0": ("#d1352b", "x", ":"),
    "random mask": ("#999999", ".", ":"),
    "TIES 0.2": ("#3b75af", "s", "-"),
    "breadcrumbs 0.1 / 0.01": ("#d1352b", "D", "-"),
    "row 0.1 / 0.01": ("#ef8636", "v", "-"),
    "breadcrumbs 0.1 / 0": ("#d1352b", "x", ":"),
    "breadcrumbs 0.9 / 0.01": ("#b8a200", "d", "--"),
}


def draw(found: list[Course], plan: Plan, known: Known, file: Path) -> None:
    """Draw a line of three pictures for each recipe."""
    figure, axes = plt.subplots(
        len(RECIPES), 3, figsize=(12, 7.5), sharey=True, layout="constrained"
    )
    for line, recipe in zip(axes, RECIPES, strict=True):
        own = of_recipe(found, recipe)
        _by_count(line[0], own, plan, known)
        _by_scale(line[1], line[2], own[0], plan, known)
        line[0].set_ylabel(f"{recipe}\naccuracy, % of the experts'")
    for axis, title in zip(
        axes[0],
        (
            "Tuned on four tasks, then frozen",
            "All experts, by lambda",
            "All experts, by distance",
        ),
        strict=True,
    ):
        axis.set_title(title)
    for axis, label in zip(
        axes[-1],
        ("experts merged", "lambda", "norm of the change / norm of the base"),
        strict=True,
    ):
        axis.set_xlabel(label)
    for axis in axes[0][:2]:
        axis.legend(fontsize=7, loc="lower left")
    for axis in axes.flat:
        axis.grid(alpha=0.25)
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _line(axis: Any, name: str, xs: list[float], ys: list[float]) -> None:
    color, marker, style = STYLES[name]
    axis.plot(
        xs, [100 * y for y in ys], style, c=color, marker=marker, ms=4, label=name
    )


def _by_count(axis: Any, own: list[Course], plan: Plan, known: Known) -> None:
    least = min(own, key=lambda course: len(course.tasks))
    numbers = counts_in(MAIN, least, plan)
    for arm in arms_in(MAIN):
        merges = [frozen(arm, known, 0 if n == numbers[-1] else n) for n in numbers]
        ys = [fmean(kept(c, merge(c), known) for c in own) for merge in merges]
        _line(axis, arm, list(map(float, numbers)), ys)


def _by_scale(
    by_scale: Any, by_distance: Any, course: Course, plan: Plan, known: Known
) -> None:
    for name in SETTINGS:
        merges = [
            setting_merge(course, name, scale, len(course.tasks))
            for scale in plan.scales
        ]
        ys = [kept(course, merge, known) for merge in merges]
        _line(by_scale, name, list(plan.scales), ys)
        _line(by_distance, name, [known[repr(m)]["distance"] for m in merges], ys)
    by_scale.set_xscale("log")
    by_distance.set_xscale("log")
