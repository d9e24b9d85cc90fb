"""The command `mergekit-breadcrumbs extract`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mergekit_breadcrumbs.cli_options import reading_options


def show_file(folder: Path) -> None:
    """Print what a breadcrumb file holds; a folder that is none is refused."""
    from mergekit_breadcrumbs.files.reader import is_breadcrumb_file
    from mergekit_breadcrumbs.files.summary import show

    if not is_breadcrumb_file(folder):
        raise click.UsageError(f"{folder} is a directory, and no breadcrumb file")
    try:
        show(folder)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def _read_fraction(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if not 0 < value <= 1:  # NaN, too
        raise click.BadParameter(f"must be in (0, 1]; got {value:g}", ctx, param)
    return value


@click.command(short_help="Make a breadcrumb file of a fine-tuned model.")
@click.argument("base")
@click.argument("finetuned")
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option(
    "--fraction",
    type=float,
    callback=_read_fraction,
    default=0.2,
    show_default=True,
    help="How much of each slice to store; 1 for all that changed.",
)
@click.option(
    "--granularity",
    type=click.Choice(["tensor", "row"]),
    default="tensor",
    show_default=True,
    help="What a slice is, as in the configs that will use the file.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32", "float64"]),
    help="The dtype of the configs that will use the file, where they set one.",
)
@click.option("--force", is_flag=True, help="Replace an earlier file in OUT_DIR.")
@reading_options
def extract(
    base: str,
    finetuned: str,
    out_dir: Path,
    fraction: float,
    granularity: Any,
    dtype: Any,
    force: bool,
    **options: Any,
) -> None:
    """Store in OUT_DIR what changed the most when BASE became FINETUNED.

    Both are folders or names on the hub, FINETUNED also MODEL+ADAPTER. A config then
    names the fine-tuned model as BASE+OUT_DIR. Of each weight the largest elements of
    the task vector are stored, as many as FRACTION says. Merges with density + gamma of
    at most that give the same bits as with FINETUNED itself. With --fraction 1, all
    that changed is stored, and FINETUNED comes back to the bit.
    """
    from mergekit.options import MergeOptions

    from mergekit_breadcrumbs.extract.run import Request
    from mergekit_breadcrumbs.extract.run import extract as make
    from mergekit_breadcrumbs.extract.text import show

    merge_options = MergeOptions(**options)
    merge_options.apply_global_options()
    request = Request(base, finetuned, out_dir, fraction, granularity, dtype, force)
    try:
        made = make(request, merge_options)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    show(made, out_dir)
