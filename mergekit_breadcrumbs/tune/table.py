"""What a study found, for a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergekit_breadcrumbs.measure.table import PIPED_WIDTH
from mergekit_breadcrumbs.tune.compare import margin, sentences
from mergekit_breadcrumbs.tune.report import Report
from mergekit_breadcrumbs.tune.scores import Score
from mergekit_breadcrumbs.tune.search import Values
from mergekit_breadcrumbs.wording import visible


def print_report(report: Report, file: TextIO) -> None:
    """Print the contenders, what matters, and what the comparisons say.

    On a terminal in colour and as wide as it is; elsewhere as plain text of 100
    columns, or of as many as COLUMNS says.
    """
    console = Console(file=file, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    console.print(contender_table(report))
    console.print()
    # Where nobody looks at it a sentence is a line, which others can search.
    for sentence in _sentences(report):
        console.print(_line(sentence), soft_wrap=not console.is_terminal)


def _sentences(report: Report) -> Iterator[str]:
    for contender in report.contenders:
        if contender.error is not None:
            yield f"{contender.name} was not scored: {contender.error}"
    yield from report.notes
    if report.study.importance:
        yield f"What matters: {_importance(report)}."
    yield from sentences(report)


def contender_table(report: Report) -> Table:
    """Return a line for each model, with its score and half of its 95 % interval."""
    validated = report.validate_with is not None
    columns = [(_heading(report), "score")]
    columns += [("validation", "validation")] if validated else []
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("values", overflow="fold")
    for contender in report.contenders:
        scores = [score_text(getattr(contender, name)) for _, name in columns]
        table.add_row(
            _line(contender.name),
            *scores,
            _line(values_text(contender.values)),
            style="bold" if contender.kind == "best" else None,
        )
    return table


def _heading(report: Report) -> str:
    return "relative score" if report.relative else "score"


def score_text(score: Score | None) -> str:
    """Write a score, and half of its 95 % interval where its error is known.

    Example:
        >>> score_text(Score(0.51234, 0.01)), score_text(Score(71)), score_text(None)
        ('0.5123 ± 0.0196', '71', '-')
    """
    if score is None:
        return "-"
    width = margin(score)
    return f"{score.value:.4g}" + (f" ± {width:.3g}" if width is not None else "")


def values_text(values: Values) -> str:
    """Write values short, in their order.

    Example:
        >>> values_text({"lambda": 0.81234, "gamma": 0.0})
        'lambda 0.812, gamma 0'
    """
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def _importance(report: Report) -> str:
    shares = sorted(report.study.importance.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares)


def _line(text: str) -> Text:
    """Return text that neither rich nor a terminal takes any part of for a command."""
    return Text(visible(text))
