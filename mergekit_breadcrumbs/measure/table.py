"""The tables, the summaries and the findings of an inspection, for a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergekit_breadcrumbs.measure.findings import findings
from mergekit_breadcrumbs.measure.model_names import short_names
from mergekit_breadcrumbs.measure.report import (
    Report,
    Total,
    add_up,
    mean_cosine,
    of_model,
)
from mergekit_breadcrumbs.measure.short_numbers import (
    cosine,
    percent,
    short_number,
    span,
)
from mergekit_breadcrumbs.measure.tensor_roles import Role
from mergekit_breadcrumbs.wording import visible

PIPED_WIDTH = 100
"""Columns where there is no terminal to ask."""

LEGEND = (
    "In percent: zero, small, kept and large of the elements, norm² of the task"
    " vector's squared norm.\nCuts: |delta|, from the tensor (or row) with the least to"
    " the one with the greatest."
)

_NARROW = 100  # with fewer columns than this, cuts have one digit less
_HEADINGS = (
    *("elements", "zero", "small", "kept", "large", "lower cut", "upper cut"),
    *("norm²\nsmall", "norm²\nkept", "norm²\nlarge"),
)
_MEETINGS = (
    *("elements", "changed by\ntwo or more", "of these,\nopposed"),
    *("cosine\nof kept", "cosine\nof large"),
)


def print_report(report: Report, file: TextIO | None = None) -> None:
    """Print everything that an inspection found.

    On a terminal in colour and as wide as it is; elsewhere as plain text of 100
    columns, or of as many as COLUMNS says.
    """
    console = Console(file=file, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    names = short_names(report.models)
    console.print(_line(_heading(report)))
    console.print(Text(LEGEND))
    for model in report.models:
        console.print()
        console.print(model_table(report, model, names[model], console.width))
    if len(report.models) > 1:
        console.print()
        console.print(meeting_table(report))
    console.print()
    for line in summaries(report):
        console.print(_line(line))
    console.print()
    stands_out = findings(report)
    if not stands_out:
        console.print(Text("Nothing stands out."))
    for sentence in stands_out:
        console.print(_line(f"! {sentence}"))


def _line(text: str) -> Text:
    """Return text that neither rich nor a terminal takes any part of for a command."""
    return Text(visible(text))


def _heading(report: Report) -> str:
    if report.layers is None:
        what = f"{len(report.tensors)} tensors, {report.layer_count} layers"
    else:
        layers = ", ".join(map(str, report.layers))
        word = "layers" if len(report.layers) > 1 else "layer"
        what = f"{len(report.tensors)} tensors of {word} {layers} alone"
    base = next(iter(short_names([report.base_model]).values()))
    return f"{report.merge_method} of {len(report.models)} into {base}: {what}"


def model_table(report: Report, model: str, name: str, width: int = 100) -> Table:
    """Return what becomes of one model's task vectors, a line for each role."""
    narrow = width < _NARROW
    title = _line(f"{name}  {_parameters(report, model)}")
    title.overflow = "ellipsis"
    table = _table(title, padding=0)
    table.add_column("role", no_wrap=True)
    for heading in _HEADINGS[1 if narrow else 0 :]:
        table.add_column(heading, justify="right", no_wrap=True)
    for role in Role:
        if pairs := of_model(report, model, role):
            table.add_row(role.value, *_cells(add_up(pairs), narrow))
    table.add_section()
    table.add_row("all", *_cells(add_up(of_model(report, model)), narrow))
    return table


def meeting_table(report: Report) -> Table:
    """Return where several models change the same elements, a line for each role."""
    table = _table("across models")
    table.add_column("role", no_wrap=True)
    for heading in _MEETINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for role in (*Role, None):
        elements, overlapping, opposed = _meetings(report, role)
        if role is None:
            table.add_section()
        elif not elements:
            continue
        table.add_row(
            role.value if role else "all",
            short_number(elements),
            percent(overlapping, elements),
            percent(opposed, overlapping),
            *(cosine(mean_cosine(report, part, role)) for part in ("kept", "large")),
        )
    return table


def _table(title: str | Text, **options: Any) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        **options,
    )


def _meetings(report: Report, role: Role | None = None) -> tuple[int, int, int]:
    tensors = [t for t in report.tensors if role is None or t.role == role]
    return (
        sum(t.elements for t in tensors),
        sum(t.overlapping for t in tensors),
        sum(t.opposed for t in tensors),
    )


def summaries(report: Report) -> list[str]:
    """Return a line for each model, and one for how they meet."""
    names = short_names(report.models)
    lines = []
    for model in report.models:
        total = add_up(of_model(report, model))
        lines.append(
            f"{names[model]}: {percent(total.counts.kept, total.elements)} % kept,"
            f" holding {percent(total.squares.kept, total.squares.total)} % of the"
            f" squared norm; norm {total.norm:.3g}, {total.norm_ratio:.2g} of the"
            " base's."
        )
    if len(report.models) > 1:
        elements, overlapping, opposed = _meetings(report)
        lines.append(
            f"Together: {percent(overlapping, elements)} % of the elements are changed"
            f" by two or more, {percent(opposed, overlapping)} % of these in opposite"
            f" directions. Mean cosine of two models: {_alike(report)}."
        )
    return lines


def _alike(report: Report) -> str:
    kept, large = (cosine(mean_cosine(report, part)) for part in ("kept", "large"))
    return f"{kept} of what is kept, {large} of what is dropped as large"


def _parameters(report: Report, model: str) -> str:
    vectors = [vector for _, vector in of_model(report, model)]
    parts = []
    for name in ("weight", "density", "gamma"):
        values = [getattr(vector, name) for vector in vectors]
        parts.append(f"{name} {span(values, 'g')}" if values else "")
    by_row = {t.granularity for t, _ in of_model(report, model)}
    if by_row == {"row"}:
        parts.append("by row")
    elif "row" in by_row:
        parts.append("partly by row")
    return ", ".join(parts)


def _cells(total: Total, narrow: bool) -> Iterable[str]:
    counts, squares = total.counts, total.squares
    if not narrow:
        yield short_number(total.elements)
    for count in (total.zero, counts.small, counts.kept, counts.large):
        yield percent(count, total.elements)
    for cut in (total.lower_cut, total.upper_cut):
        yield span(cut, ".0e" if narrow else ".1e") if cut else "-"
    for square in (squares.small, squares.kept, squares.large):
        yield percent(square, squares.total)
