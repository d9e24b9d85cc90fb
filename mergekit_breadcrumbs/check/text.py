"""The problems of a config as lines of text, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click
from rich.cells import cell_len, chop_cells

from mergekit_breadcrumbs.check.before import Before, ModelBytes
from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.config_file import LINE_BREAK
from mergekit_breadcrumbs.check.problems import Mark, place_name
from mergekit_breadcrumbs.check.run import Checked
from mergekit_breadcrumbs.wording import bytes_text, counted, listed, visible

_COLOURS = {"error": "red", "warning": "yellow"}
_WIDTH = 80
_MOST_OF_A_KIND = 100


def show(checked: Checked, file: Path, stream: TextIO, *, closing: bool) -> None:
    """Print all problems, and with `closing` or after an error the closing line."""
    for line in problem_lines(checked, file, excerpts=stream.isatty()):
        click.echo(line, file=stream)
    if closing or checked.failed:
        click.echo(f"{visible(file)}: {summary(checked)}", file=stream)
    for line in before_lines(checked.before) if checked.before else ():
        click.echo(line, file=stream)


def problem_lines(checked: Checked, file: Path, excerpts: bool) -> Iterator[str]:
    """Yield the lines that tell of each problem, coloured for a terminal.

    With `excerpts` the line of the file comes after it, and below it a caret. Of one
    code no more than 100 are told.
    """
    lines = LINE_BREAK.split(checked.text) if excerpts else []
    shown: Counter[Code] = Counter()
    for problem in checked.problems:
        shown[problem.code] += 1
        if shown[problem.code] > _MOST_OF_A_KIND:
            continue
        place = str(file) if problem.line is None else f"{file}:{problem.line}"
        colour = _COLOURS[problem.severity]
        severity = click.style(problem.severity, fg=colour, bold=True)
        text = visible(f"{problem.code.value}: {problem}")
        yield f"{visible(place)}: {severity} {text}"
        if problem.mark is not None and problem.line in range(1, len(lines) + 1):
            yield from _excerpt(lines[problem.mark.line - 1], problem.mark, colour)
    for code, count in shown.items():
        if count > _MOST_OF_A_KIND:
            more = f"{count - _MOST_OF_A_KIND} more of {code.value}"
            yield f"{visible(str(file))}: and {more}"


def _excerpt(line: str, mark: Mark, colour: str) -> Iterator[str]:
    """Yield as much of a line as fits on a terminal, and what points to the mark."""
    margin = f"{mark.line:>5} | "
    room = _WIDTH - len(margin)
    start, end = mark.column - 1, mark.column - 1 + mark.length
    # No more of a line of a million characters than can be shown.
    before = visible(line[max(start - _WIDTH, 0) : start])
    marked = visible(line[start : min(end, start + _WIDTH)])
    if cell_len(before) > room // 2:
        before = "..." + chop_cells(before[::-1], room // 2 - 3)[0][::-1]
    text = before + marked + visible(line[end : end + _WIDTH])
    shown = chop_cells(text, room)[0] if text else ""
    carets = max(min(cell_len(marked), room - cell_len(before)), 1)
    yield margin + shown.rstrip()
    blank = " " * (len(margin) - 2) + "| " + " " * cell_len(before)
    yield blank + click.style("^" * carets, fg=colour, bold=True)


def summary(checked: Checked) -> str:
    """Return the closing line: how many problems, and what was looked at."""
    counts = [counted(checked.problems.count(s), s) for s in ("error", "warning")]
    found = ", ".join(text for text in counts if not text.startswith("0"))
    sizes = [(checked.models, "model"), (checked.tensors, "tensor")]
    sizes.append((checked.layers, "layer"))
    looked_at = ", ".join(counted(n, what) for n, what in sizes if n)
    return (found or "no problems") + (f" ({looked_at} checked)" if looked_at else "")


def as_json(checked: Checked, file: Path) -> str:
    """Return all problems as JSON, in the order of their lines."""
    content: dict[str, Any] = {
        "valid": not checked.failed,
        "error_count": checked.problems.count("error"),
        "warning_count": checked.problems.count("warning"),
        "diagnostics": [
            {
                "code": problem.code.value,
                "severity": problem.severity,
                "file": str(file),
                "line": problem.line,
                "place": place_name(problem.place),
                "message": problem.text,
            }
            for problem in checked.problems
        ],
    }
    if checked.before is not None:
        content["before"] = asdict(checked.before)
    return json.dumps(content, indent=1)


def before_lines(before: Before) -> Iterator[str]:
    """Yield the lines that say what a merge will do."""
    yield "Before you start:"
    yield f"  read      {_sizes('read_bytes', before.models)}"
    coming = [m for m in before.models if m.download_bytes != 0]
    if coming:
        free = bytes_text(before.cache_free_bytes)
        text = _sizes("download_bytes", coming)
        yield f"  download  {text} (free: {free})"
    if before.adapted_bytes:
        size = bytes_text(before.adapted_bytes)
        yield f"  adapters  {size} for the models that they are merged into"
    size = _known(before.write_bytes)
    free = bytes_text(before.out_free_bytes)
    yield f"  write     {size} to {visible(before.out)} (free: {free})"
    memory = "unknown"
    if before.memory_bytes is not None and before.mapped_bytes is not None:
        memory = f"about {bytes_text(before.memory_bytes)} at its peak, and up to"
        memory += f" {bytes_text(before.mapped_bytes)} of mapped files"
    yield f"  memory    {memory} (free: {bytes_text(before.available_bytes)})"
    held = visible(listed(before.holds, 3)) if before.holds else "no model yet"
    yield f"  {'folder':<10}holds {held}"


def _sizes(key: str, models: list[ModelBytes]) -> str:
    """Return a sum over models, and each one's part."""
    sizes = {model.model: getattr(model, key) for model in models}
    parts = [f"{visible(name)} {_known(size)}" for name, size in sizes.items()]
    total = bytes_text(sum(size or 0 for size in sizes.values()))
    more = "more than " if None in sizes.values() else ""
    return f"{more}{total}: {listed(parts, 8)}"


def _known(size: int | None) -> str:
    return "unknown" if size is None else bytes_text(size)
