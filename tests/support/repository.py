"""The repository's files, the package's modules, and the installed commands."""

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import mergekit_breadcrumbs

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
HOOK = ROOT / "mergekit_breadcrumbs" / "hook"
START_UP = "__init__"


def _sources() -> dict[str, str]:
    """Read the package's modules, by name within it; a folder is its `__init__`."""
    package = Path(mergekit_breadcrumbs.__file__).parent
    sources = {}
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        if path.parent.name != HOOK.name:
            sources[name.removesuffix(f".{START_UP}")] = path.read_text("utf-8")
    return sources


SOURCES = _sources()


def run(
    *command: str | Path, timeout: float = 600, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end; return its exit status and what it printed."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def script(name: str) -> Path:
    """Return a console script of the environment that the tests run in."""
    return Path(sysconfig.get_path("scripts")) / name


def run_script(
    name: str, *arguments: str | Path, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a console script of the environment that the tests run in."""
    return run(script(name), *arguments, **options)
