"""What the start-up hook adds to every start of Python.

Two throw-away virtual environments, one with the installed package and its hook, one
empty, take turns in being started. Prints Markdown; `--json FILE` also writes every
time.

    python benchmarks/startup.py
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import venv
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import click

import mergekit_breadcrumbs

HOOK_FILES = ("mergekit_breadcrumbs.pth", "mergekit_breadcrumbs.start")
WARM_UP = 5


class Start(NamedTuple):
    """Milliseconds that one start took."""

    wall: float
    cpu: float


def make_environment(root: Path, *, hook: bool) -> Path:
    """Make a virtual environment, with the package and its hook or with nothing."""
    venv.create(root, with_pip=False, symlinks=True)
    python = root / "bin" / "python"
    if hook:
        code = "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
        site_packages = Path(subprocess.check_output([python, "-c", code], text=True))
        package = Path(mergekit_breadcrumbs.__file__).parent
        ignore = shutil.ignore_patterns("__pycache__", "hook")
        shutil.copytree(package, site_packages / package.name, ignore=ignore)
        for file in distribution("mergekit-breadcrumbs").files or []:
            if file.name in HOOK_FILES:
                shutil.copy(str(file.locate()), site_packages)
    code = "import sys; print('mergekit_breadcrumbs' in sys.modules, end='')"
    assert subprocess.check_output([python, "-c", code], text=True) == str(hook)
    return python


def start(python: Path) -> Start:
    """Start Python once, to do nothing."""
    command = [str(python), "-c", "pass"]
    begin = time.perf_counter()
    _, status, usage = os.wait4(os.posix_spawn(python, command, os.environ), 0)
    wall = time.perf_counter() - begin
    assert status == 0
    return Start(1e3 * wall, 1e3 * (usage.ru_utime + usage.ru_stime))


def measure(plain: Path, hook: Path, starts: int) -> list[tuple[Start, Start]]:
    """Start both alternately, in ABBA order; return pairs of (plain, hook)."""
    for python in (plain, hook) * WARM_UP:
        start(python)
    pairs = []
    for turn in range(starts):
        if turn % 2:
            second = start(hook)
            pairs.append((start(plain), second))
        else:
            pairs.append((start(plain), start(hook)))
    return pairs


def table(pairs: list[tuple[Start, Start]]) -> str:
    """Medians of each, and the median of the paired differences."""
    plain, hook = zip(*pairs, strict=True)
    added = [Start(h.wall - p.wall, h.cpu - p.cpu) for p, h in pairs]
    lines = [
        f"| `python -c pass`, {len(pairs)} starts each | wall, ms | CPU, ms |",
        "| --- | --- | --- |",
    ]
    rows = {"plain": plain, "with the hook": hook, "added (median of pairs)": added}
    for name, starts in rows.items():
        wall = statistics.median(s.wall for s in starts)
        cpu = statistics.median(s.cpu for s in starts)
        lines.append(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    return "\n".join(lines)


@click.command(help=(__doc__ or "").split("\n\n    ")[0])
@click.option(
    "--starts",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="How often to start each of the two.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write every time, in milliseconds.",
)
def main(starts: int, json_file: Path | None) -> None:
    # Neither coverage nor Python's settings may interfere. Byte code must be cached, as
    # it is after the first start of a real environment.
    for name in list(os.environ):
        if name.startswith(("PYTHON", "COVERAGE", "MERGEKIT")):
            del os.environ[name]
    with tempfile.TemporaryDirectory() as folder:
        plain = make_environment(Path(folder, "plain"), hook=False)
        hook = make_environment(Path(folder, "hook"), hook=True)
        pairs = measure(plain, hook, starts)
    click.echo(table(pairs))
    if json_file is not None:
        rows = [{"plain": p._asdict(), "hook": h._asdict()} for p, h in pairs]
        json_file.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
