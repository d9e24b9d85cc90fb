"""The command `mergekit-breadcrumbs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mergekit_breadcrumbs.cli_extract import extract
from mergekit_breadcrumbs.cli_inspect import inspect
from mergekit_breadcrumbs.cli_options import mergekit_options
from mergekit_breadcrumbs.cli_tune import tune
from mergekit_breadcrumbs.terminal import Commands
from mergekit_breadcrumbs.wording import visible, visible_lines


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
    """Train a tiny base and eight experts, merge them, and compare.

    Takes about two minutes on two CPU cores and downloads nothing. Everything is
    written to OUT_DIR (default: breadcrumbs-demo).
    """
    from mergekit_breadcrumbs.demo.run import run_demo

    run_demo(out_dir, force=force, seed=seed)


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


for command in (inspect, extract, tune):
    main.add_command(command)

if __name__ == "__main__":
    main()
