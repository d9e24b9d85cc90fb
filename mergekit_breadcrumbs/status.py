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
_MISSING = "not installed"

# Asked in a fresh interpreter that knows nothing of this package, as `mergekit-yaml`
# is one: in this process the import of the package has already changed the answer.
# Nor does `mergekit-yaml` look for modules in the working directory.
_PROBE = """
import sys
sys.path[:] = filter(None, sys.path)
import json, warnings
answer = {"hook_ran": "mergekit_breadcrumbs" in sys.modules, "classes": {}}
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
        "hook file": "installed" if installed else _MISSING,
        "hook ran at start": {True: "yes", False: "no"}.get(answer["hook_ran"], "?"),
        "MERGEKIT_BREADCRUMBS": os.environ.get("MERGEKIT_BREADCRUMBS") or "not set",
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
        error = f"exit status {run.returncode}\n{run.stderr}".strip()
        answer = {"hook_ran": None, "classes": {}, "error": error}
    return answer


def _advice(active: bool, installed: bool, answer: dict[str, Any]) -> str:
    if active:
        return "Active: mergekit merges with this package."
    if os.environ.get("MERGEKIT_BREADCRUMBS") == "0":
        return (
            "Not active: switched off by MERGEKIT_BREADCRUMBS=0. Unset it to switch it"
            " on."
        )
    if _version("mergekit") == _MISSING:
        return (
            "Not active: there is no mergekit here. Install it with: pip install"
            " 'mergekit>=0.1.5,<0.2'"
        )
    if answer.get("error"):
        return (
            "Not active: mergekit cannot be imported here. Repair what this error"
            f" names:\n{answer['error']}"
        )
    if answer.get("said"):
        return f"Not active: {answer['said'][0]}"
    if answer["hook_ran"]:
        return (
            "Not active: another package has put the classes above in the place of"
            " this one's. Uninstall it, or switch it off."
        )
    if not installed:
        return (
            "Not active: the start-up hook is not installed. Install the package again"
            " (pip install --force-reinstall --no-deps mergekit-breadcrumbs, or . in a"
            " checkout), or write `import mergekit_breadcrumbs` before merging in"
            " Python."
        )
    return (
        "Not active: this Python has not run the hook file, as it does only for its own"
        " site-packages (not with -S, nor for a pip --target directory on PYTHONPATH)."
        " Install the package into this environment, or write `import"
        " mergekit_breadcrumbs` before merging in Python."
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
        return _MISSING
