"""Where the repository's files are, and its installed commands."""

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
HOOK = ROOT / "mergekit_breadcrumbs" / "hook"


def run_command(
    name: str, *arguments: str | Path, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a console script of the environment that the tests run in."""
    return subprocess.run(
        [Path(sysconfig.get_path("scripts")) / name, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        **options,
    )
