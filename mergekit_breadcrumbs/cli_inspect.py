"""The command `mergekit-breadcrumbs inspect`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_breadcrumbs.cli_extract import show_file
from mergekit_breadcrumbs.cli_options import (
    mergekit_options,
    read_layers,
    require_matplotlib,
    require_writable,
)

if TYPE_CHECKING:
    from mergekit.config import MergeConfiguration
    from mergekit.options import MergeOptions


@click.command()
@click.argument("config", type=click.Path(exists=True, path_type=Path))
@click.option("--check", is_flag=True, help="Stop after the checks; read no tensor.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How --check prints what it found.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --check, say what a merge into DIR will take.",
)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    callback=require_writable,
    help="Write the report as JSON; - is standard output.",
)
@click.option(
    "--plot",
    "plot_file",
    metavar="FILE.png",
    callback=require_matplotlib,
    help="Draw the report (needs the extra `plot`).",
)
@click.option(
    "--layers",
    metavar="0,5,-1",
    callback=read_layers,
    help="Report on these layers only; negative numbers count from the last.",
)
@mergekit_options
def inspect(
    config: Path,
    check: bool,
    output_format: str,
    out: Path | None,
    json_file: str | None,
    plot_file: str | None,
    layers: tuple[int, ...] | None,
    **options: Any,
) -> None:
    """Report what is wrong with CONFIG, and what merging it will do.

    First all problems of the file are listed, in about a second after mergekit is
    imported and before any tensor is read. Each has a code, which mergekit-breadcrumbs
    explain explains. Without errors, and without --check, the models are then read, as
    for a merge. No model is written.

    CONFIG is a YAML file for mergekit-yaml with merge_method: breadcrumbs or
    breadcrumbs_ties. Exits with 1 if there is an error; warnings alone exit with 0.
    Of a breadcrumb file in the place of CONFIG it prints what that holds.
    """
    if config.is_dir():
        if check or any((out, json_file, plot_file, layers)):
            names = "--check, --out, --json, --plot and --layers"
            raise click.UsageError(f"{names} go with a config, not with a folder")
        show_file(config)
        return
    if output_format == "json" and not check:
        raise click.UsageError("--format json goes with --check")
    if out is not None and not check:
        raise click.UsageError("--out goes with --check")
    from mergekit.options import MergeOptions

    from mergekit_breadcrumbs.check.run import check_file
    from mergekit_breadcrumbs.check.text import as_json, show
    from mergekit_breadcrumbs.measure.dry_run import choose_layers

    merge_options = MergeOptions(**options)
    merge_options.apply_global_options()
    checked = check_file(config, merge_options, out)
    if output_format == "json":
        click.echo(as_json(checked, config))
    else:
        # Standard output is for what was asked for: the problems, or the report.
        show(checked, config, sys.stdout if check else sys.stderr, closing=check)
    if checked.config is None or checked.failed:
        raise SystemExit(1)
    try:
        choose_layers(layers or (), checked.layers)
    except ValueError as error:
        raise click.UsageError(f"--{error}") from None
    if check:
        return
    files = {"json_file": json_file, "plot_file": plot_file}
    _measure(checked.config, merge_options, layers=layers, **files)


def _measure(config: MergeConfiguration, options: MergeOptions, **rest: Any) -> None:
    from mergekit_breadcrumbs.host.attempt import attempt, first_line
    from mergekit_breadcrumbs.measure.run import run_inspection

    try:
        _, error = attempt(run_inspection, config, options, **rest)
    except ValueError as wrong:  # a task vector that is not finite
        raise click.ClickException(str(wrong)) from wrong
    if isinstance(error, (ImportError, OSError)):
        raise error
    if error is not None:
        text = f"the models cannot be measured: {first_line(error)}"
        raise click.ClickException(text) from error
