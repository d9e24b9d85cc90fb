"""What serves the two method names in this environment, and why."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

_HOOK_FILES = ("mergekit_breadcrumbs.pth", "mergekit_breadcrumbs.start")
_NAMES = ("breadcrumbs", "breadcrumbs_ties")

# Asked in a fresh interpreter that knows nothing of this package, as `mergekit-yaml`
# is one: in this process the import of the package has already changed the answer.
_PROBE = """
import json, sys, warnings
answer = {"hook_ran": "mergekit_breadcrumbs._autoload" in sys.modules, "classes": {}}
try:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from mergekit.merge_methods import registry
        for name in sys.argv[1:]:
            kind = type(registry.get(name))
            answer["classes"][name] = f"{kind.__module__}.{kind.__qualname__}"
    answer["said"] = [
        str(w.message) for w in caught if "mergekit-breadcrumbs" in str(w.message)
    ]
except Exception as error:
    answer["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(answer))
"""


def report() -> tuple[bool, str]:
    """Find out which classes an unmodified mergekit uses here.

    Takes as long as importing mergekit does, because that is what it tries.

    Returns:
        Whether both methods are served by this package, and a text that says so line
        by line, with what to do if they are not.
    """
    installed = _hook_installed()
    answer = _probe()
    classes = {name: answer["classes"].get(name, "nothing") for name in _NAMES}
    active = all(c.startswith("mergekit_breadcrumbs.") for c in classes.values())
    rows = {
        "mergekit-breadcrumbs": _version("mergekit-breadcrumbs"),
        "mergekit": _version("mergekit"),
        "torch": _version("torch"),
        "Python": f"{platform.python_version()} ({sys.executable})",
        "hook file": "installed" if installed else "not installed",
        "hook ran at start": "yes" if answer["hook_ran"] else "no",
        **classes,
    }
    width = max(len(row) for row in rows)
    lines = [f"{row:<{width}}  {value}" for row, value in rows.items()]
    lines += ["", _advice(active, installed, answer)]
    return active, "\n".join(lines)


def _probe() -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-c", _PROBE, *_NAMES],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"hook_ran": False, "classes": {}, "error": run.stderr.strip()}
    return answer


def _advice(active: bool, installed: bool, answer: dict[str, Any]) -> str:
    if active:
        return "Active: mergekit merges with this package."
    if os.environ.get("MERGEKIT_BREADCRUMBS") == "0":
        return (
            "Not active: switched off by MERGEKIT_BREADCRUMBS=0; unset it to switch it"
            " on."
        )
    if answer.get("error"):
        return f"Not active: importing mergekit fails with\n{answer['error']}"
    if answer.get("said"):
        return f"Not active: {answer['said'][0]}"
    if not installed:
        return (
            "Not active: the start-up hook is not installed. Install the package with"
            " pip (pip install mergekit-breadcrumbs), or write `import"
            " mergekit_breadcrumbs` before merging in Python."
        )
    return (
        "Not active: this Python does not run .pth files (is it started with -S, or is"
        " the package in a --target directory on PYTHONPATH?). Write `import"
        " mergekit_breadcrumbs` before merging in Python, or install into the"
        " environment's own site-packages."
    )


def _hook_installed() -> bool:
    try:
        files = distribution("mergekit-breadcrumbs").files or []
    except PackageNotFoundError:
        return False
    present = {f.name for f in files if Path(str(f.locate())).exists()}
    return present.issuperset(_HOOK_FILES)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
