"""A whole inspection: read the models, print the tables, write what is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.measure.dry_run import inspect_tensors
from mergekit_breadcrumbs.measure.table import print_report


def run_inspection(
    config: MergeConfiguration,
    options: MergeOptions,
    *,
    layers: Sequence[int] | None = None,
    json_file: str | None = None,
    plot_file: str | Path | None = None,
) -> None:
    """Report what a merge would do to its models: tables, findings, JSON, a picture.

    Takes what `inspect_tensors` takes, and where to write JSON and a picture. With `-`
    JSON goes to standard output, and the tables to standard error.

    Raises:
        ValueError: as `inspect_tensors` does.
        ImportError: if a picture is asked for and matplotlib is not installed.
        OSError: if a file cannot be written.
    """
    report = inspect_tensors(config, options, layers)
    print_report(report, sys.stderr if json_file == "-" else sys.stdout)
    if json_file is not None:
        text = report.model_dump_json(indent=1) + "\n"
        if json_file == "-":
            sys.stdout.write(text)
        else:
            Path(json_file).write_text(text, encoding="utf-8")
    if plot_file is not None:
        from mergekit_breadcrumbs.measure.picture import draw

        draw(report, Path(plot_file))
