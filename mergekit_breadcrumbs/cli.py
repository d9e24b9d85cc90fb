"""The command `mergekit-breadcrumbs`."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
    from mergekit_breadcrumbs.status import report

    active, text = report()
    click.echo(text)
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


if __name__ == "__main__":
    main()
