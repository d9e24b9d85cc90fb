"""A whole inspection: read the models, print the tables, write what is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.measure.dry_run import inspect_tensors
from mergekit_breadcrumbs.measure.report import Report
from mergekit_breadcrumbs.measure.table import print_report
from mergekit_breadcrumbs.writing import write_whole


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
        OSError: if a file cannot be written; what was there before is kept.
    """
    report = inspect_tensors(config, options, layers)
    print_report(report, sys.stderr if json_file == "-" else sys.stdout)
    if json_file is not None:
        if json_file == "-":
            sys.stdout.write(_as_json(report, sys.stdout.encoding or "utf-8"))
            sys.stdout.flush()
        else:
            write_whole(json_file, _as_json(report, "utf-8").encode())
    if plot_file is not None:
        from mergekit_breadcrumbs.measure.picture import draw

        draw(report, Path(plot_file))


def _as_json(report: Report, encoding: str) -> str:
    """Return a report as JSON that an encoding has all characters of."""
    try:
        text = report.model_dump_json(indent=1)
        text.encode(encoding)
    except ValueError:  # the name of a folder may be anything
        text = json.dumps(report.model_dump(), indent=1)
    return f"{text}\n"
