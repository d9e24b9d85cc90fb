"""The command `mergekit-breadcrumbs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_breadcrumbs.cli_options import (
    mergekit_options,
    read_layers,
    require_matplotlib,
    require_writable,
)
from mergekit_breadcrumbs.terminal import Commands
from mergekit_breadcrumbs.wording import visible, visible_lines

if TYPE_CHECKING:
    from mergekit.config import MergeConfiguration
    from mergekit.options import MergeOptions

    from mergekit_breadcrumbs.check.run import Checked


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mergekit-breadcrumbs")
def main() -> None:
    """Model Breadcrumbs for mergekit.

    Merging itself is done by mergekit's own commands: write `merge_method:
    breadcrumbs` in a config and run `mergekit-yaml config.yml out/`.
    """


@main.command()
def status() -> None:
    """Say whether mergekit uses this package here, and what to do if not.

    Exits with 0 if both methods are served by this package, with 1 if not.
    """
    from mergekit_breadcrumbs.status import describe

    active, text = describe()
    click.echo(visible_lines(text))
    raise SystemExit(0 if active else 1)


@main.command()
@click.argument(
    "out_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("breadcrumbs-demo"),
)
@click.option("--force", is_flag=True, help="Replace an earlier demo in OUT_DIR.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N"
)
def demo(out_dir: Path, force: bool, seed: int) -> None:
    """Train a tiny base and three experts, merge them, and compare.

    Takes about two minutes on two CPU cores and downloads nothing. Everything is
    written to OUT_DIR (default: breadcrumbs-demo).
    """
    from mergekit_breadcrumbs.demo.run import run_demo

    run_demo(out_dir, force=force, seed=seed)


@main.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--check", is_flag=True, help="Stop after the checks; read no tensor.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How --check prints what it found.",
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
    """
    if output_format == "json" and not check:
        raise click.UsageError("--format json goes with --check")
    from mergekit.options import MergeOptions

    from mergekit_breadcrumbs.check.run import check_file
    from mergekit_breadcrumbs.measure.dry_run import choose_layers

    merge_options = MergeOptions(**options)
    merge_options.apply_global_options()
    checked = check_file(config, merge_options)
    _show_problems(checked, config, check, output_format)
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
    from mergekit_breadcrumbs.check.attempt import attempt, first_line
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


def _show_problems(
    checked: Checked, config: Path, check: bool, output_format: str
) -> None:
    from mergekit_breadcrumbs.check.text import as_json, problem_lines, summary

    if output_format == "json":
        click.echo(as_json(checked, config))
        return
    # Standard output is for what was asked for: the problems, or else the report.
    stream = sys.stdout if check else sys.stderr
    for line in problem_lines(checked, config, excerpts=stream.isatty()):
        click.echo(line, file=stream)
    if check or checked.failed:
        click.echo(f"{visible(str(config))}: {summary(checked)}", file=stream)


@main.command()
@click.argument("code", required=False)
def explain(code: str | None) -> None:
    """Explain a CODE that inspect or verify has shown; without one, list them all."""
    from mergekit_breadcrumbs.check.codes import explanations
    from mergekit_breadcrumbs.wording import did_you_mean

    known = {code.value: text for code, text in explanations().items()}
    if code is None:
        for name, (title, _) in known.items():
            click.echo(f"{name}  {title}")
    elif code.upper() not in known:
        hint = did_you_mean(code.upper(), known)
        raise click.UsageError(f"no such code: {visible(code)}{hint}")
    else:
        title, text = known[code.upper()]
        plain = click.wrap_text(
            re.sub(r"[*`]", "", text), width=79, preserve_paragraphs=True
        )
        click.echo(f"{code.upper()}: {title}\n\n{plain}")


if __name__ == "__main__":
    main()
