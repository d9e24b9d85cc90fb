"""The problems of a config as lines of text."""

from __future__ import annotations

from pathlib import Path

import click

from mergekit_breadcrumbs.check.run import Checked
from mergekit_breadcrumbs.wording import counted


def problem_lines(checked: Checked, file: Path) -> list[str]:
    """Return a line for each problem, coloured for a terminal."""
    lines = []
    for problem in checked.problems:
        place = str(file) if problem.line is None else f"{file}:{problem.line}"
        colour = "red" if problem.severity == "error" else "yellow"
        severity = click.style(problem.severity, fg=colour, bold=True)
        lines.append(f"{place}: {severity}: {problem}")
    return lines


def summary(checked: Checked) -> str:
    """Return the closing line: how many problems, and what was looked at."""
    counts = [counted(checked.problems.count(s), s) for s in ("error", "warning")]
    found = ", ".join(text for text in counts if not text.startswith("0"))
    sizes = [(checked.models, "model"), (checked.tensors, "tensor")]
    sizes.append((checked.layers, "layer"))
    looked_at = ", ".join(counted(n, what) for n, what in sizes if n)
    return (found or "no problems") + (f" ({looked_at} checked)" if looked_at else "")
