"""What `mergekit-breadcrumbs inspect` says about the checks, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.run import Checked, check_text
from mergekit_breadcrumbs.wording import counted


def report_checks(
    file: Path, options: Mapping[str, Any], layers: Sequence[int] | None, *, only: bool
) -> tuple[MergeConfiguration, MergeOptions]:
    """Check a config file and print its problems, one on each line.

    They go to standard output if the checks are all that was asked for (`only`), and
    otherwise to standard error, where they do not mix with the figures.

    Raises:
        SystemExit: with status 1, if there is an error.
        click.UsageError: if there is no such layer.
    """
    merge_options = MergeOptions(**options)
    merge_options.apply_global_options()
    checked = _check_file(file, merge_options)
    for problem in checked.problems:
        place = str(file) if problem.line is None else f"{file}:{problem.line}"
        colour = "red" if problem.severity == "error" else "yellow"
        severity = click.style(problem.severity, fg=colour, bold=True)
        click.echo(f"{place}: {severity}: {problem}", err=not only)
    if only or checked.problems.count("error"):
        click.echo(f"{file}: {summary(checked)}", err=not only)
    if checked.problems.count("error") or checked.config is None:
        raise SystemExit(1)
    _check_layers(layers, checked.layers)
    return checked.config, merge_options


def summary(checked: Checked) -> str:
    """Return the closing line: how many problems, and what was looked at."""
    counts = [counted(checked.problems.count(s), s) for s in ("error", "warning")]
    found = ", ".join(text for text in counts if not text.startswith("0"))
    sizes = [(checked.models, "model"), (checked.tensors, "tensor")]
    sizes.append((checked.layers, "layer"))
    looked_at = ", ".join(counted(n, what) for n, what in sizes if n)
    return (found or "no problems") + (f" ({looked_at} checked)" if looked_at else "")


def _check_file(file: Path, options: MergeOptions) -> Checked:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file} is not UTF-8 text: {error}") from None
    return check_text(text, options)


def _check_layers(layers: Sequence[int] | None, count: int) -> None:
    for layer in layers or ():
        if count and not -count <= layer < count:
            raise click.UsageError(
                f"--layers must be in [{-count}, {count - 1}], for the merged model"
                f" has {counted(count, 'layer')}; got {layer}"
            )
