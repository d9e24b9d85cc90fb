"""The command `mergekit-breadcrumbs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_breadcrumbs.cli_extract import extract, show_file
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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mergekit-breadcrumbs")
def main() -> None:
    """Model Breadcrumbs for mergekit.

    Merging itself is done by mergekit's own commands: write `merge_method:
    breadcrumbs` in a config and run `mergekit-yaml config.yml out/`.
    """


@main.command(short_help="Say which implementation mergekit uses here.")
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


@main.command(short_help="Explain a code of inspect or verify.")
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
        click.echo(f"{code.upper()}: {known[code.upper()].as_text()}")


@main.command(short_help="Compare a merged model with its config.")
@click.argument(
    "out_dir", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The config of the merge, instead of the mergekit_config.yml in OUT_DIR.",
)
@click.option("--all", "every", is_flag=True, help="List all problems of each kind.")
@click.option(
    "--random-seed", type=int, metavar="N", help="The seed of the merge, if it had one."
)
@mergekit_options
def verify(
    out_dir: Path, config_file: Path | None, every: bool, **options: Any
) -> None:
    """Say whether OUT_DIR, a merged model, holds exactly what its config says.

    Every tensor is made again, as for a merge, and compared bit by bit; none is
    written. Run it from where the merge ran, with the options of the merge: relative
    paths in a config start there. Takes the time and the memory of a merge.

    Exits with 0 if everything is as the config says, with 1 if not.
    """
    from mergekit.options import MergeOptions

    from mergekit_breadcrumbs.verify.run import verify as verify_folder
    from mergekit_breadcrumbs.verify.text import fault_lines, summary

    merge_options = MergeOptions(**options)
    merge_options.apply_global_options()
    try:
        verified = verify_folder(out_dir, merge_options, config_file)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    for line in fault_lines(verified, every=every):
        click.echo(line)
    click.echo(summary(verified, out_dir))
    raise SystemExit(1 if verified.faults else 0)


main.add_command(extract)

if __name__ == "__main__":
    main()
