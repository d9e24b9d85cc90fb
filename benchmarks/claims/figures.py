"""The two figures: number of tasks and sensitivity; and the ablation."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from claims.merging import METHODS
from claims.protocol import Plan
from claims.report import by_method, curve
from claims.run import Outcome

STYLES = {
    "task arithmetic": ("#444444", "o", "-"),
    "TIES": ("#3b75af", "s", "-"),
    "DARE linear": ("#8d69b8", "^", "-"),
    "breadcrumbs": ("#d1352b", "D", "-"),
    "breadcrumbs, row": ("#ef8636", "v", "--"),
    "breadcrumbs_ties": ("#519e3e", "P", "--"),
}


def draw_claims(outcome: Outcome, plan: Plan, file: Path) -> None:
    """Draw accuracy by number of tasks, and by scale for all eight tasks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    frozen = by_method(outcome, "frozen", lambda job: len(job.tasks))
    scales = by_method(
        outcome, "sensitivity", lambda job: dict(job.parameters)["lambda"]
    )
    for name in METHODS:
        color, marker, line = STYLES[name]
        for axes, points in ((left, frozen[name]), (right, scales[name])):
            where = sorted(points)
            means = [100 * points[x][0] for x in where]
            errors = [100 * points[x][1] for x in where]
            axes.plot(where, means, line, color=color, marker=marker, ms=4, label=name)
            axes.fill_between(
                where,
                [m - e for m, e in zip(means, errors, strict=True)],
                [m + e for m, e in zip(means, errors, strict=True)],
                color=color,
                alpha=0.15,
                linewidth=0,
            )
    left.set(
        xlabel="number of tasks merged",
        ylabel="accuracy relative to the expert's, %",
        title="Tuned on pairs, then frozen (test data)",
    )
    right.set(
        xlabel="lambda",
        xscale="log",
        title="All eight tasks, by scale (validation data)",
    )
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_ablation(outcome: Outcome, plan: Plan, file: Path) -> None:
    """Draw a heatmap for each density: gamma by scale."""
    grid = curve(
        outcome,
        outcome.stage("ablation"),
        lambda job: tuple(
            dict(job.parameters)[name] for name in ("density", "gamma", "lambda")
        ),
    )
    figure, axes = plt.subplots(
        1,
        len(plan.densities),
        figsize=(2 + 1.8 * len(plan.densities), 3.2),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    values = [100 * mean for mean, _ in grid.values()]
    image = None
    for density, axis in zip(plan.densities, axes[0], strict=True):
        rows = [
            [100 * grid[density, gamma, scale][0] for gamma in plan.gammas]
            for scale in plan.ablation_scales
        ]
        image = axis.imshow(
            rows, vmin=min(values), vmax=max(values), aspect="auto", origin="lower"
        )
        axis.set(
            title=f"density {density:g}",
            xticks=range(len(plan.gammas)),
            yticks=range(len(plan.ablation_scales)),
            yticklabels=[f"{scale:g}" for scale in plan.ablation_scales],
        )
        axis.set_xticklabels([f"{100 * g:g}" for g in plan.gammas], fontsize=7)
    axes[0][0].set_ylabel("lambda")
    figure.supxlabel("gamma, %")
    figure.colorbar(image, ax=axes, label="accuracy relative to the expert's, %")
    figure.savefig(file, dpi=100)
    plt.close(figure)
