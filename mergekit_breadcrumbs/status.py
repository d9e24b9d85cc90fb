"""Which classes serve the two method names in this environment, and why."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import Any

from mergekit_breadcrumbs.wording import visible

_HOOK_FILES = ("mergekit_breadcrumbs.pth", "mergekit_breadcrumbs.start")
_NAMES = ("breadcrumbs", "breadcrumbs_ties")
_PACKAGES = ("mergekit-breadcrumbs", "mergekit", "torch")
_MISSING = "not installed"

# Run in a fresh interpreter, as `mergekit-yaml` is: in this process, importing the
# package has already changed the answer. Like `mergekit-yaml`, it does not look for
# modules in the working directory.
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
    messages = [str(warning.message) for warning in caught]
    answer["said"] = [text for text in messages if "mergekit-breadcrumbs" in text]
except Exception as error:
    answer["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(answer))
"""


def describe() -> tuple[bool, str]:
    """Return whether this package serves both methods, and the text of the command.

    Takes as long as importing mergekit, because it imports mergekit to find out.
    """
    installed = _hook_installed()
    answer = _probe()
    classes = {name: answer["classes"].get(name, "nothing") for name in _NAMES}
    active = all(c.startswith("mergekit_breadcrumbs.") for c in classes.values())
    facts = {
        **{package: _version(package) for package in _PACKAGES},
        "Python": f"{platform.python_version()} ({sys.executable})",
        "hook file": "installed" if installed else _MISSING,
        "hook ran at start": {True: "yes", False: "no"}.get(answer["hook_ran"], "?"),
        "MERGEKIT_BREADCRUMBS": os.environ.get("MERGEKIT_BREADCRUMBS") or "not set",
        **classes,
    }
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {visible(value)}" for name, value in facts.items()]
    verdict = "Active: mergekit merges with this package."
    if not active:
        verdict = f"Not active: {_reason(installed, answer)}"
    return active, "\n".join([*lines, "", verdict])


def _probe() -> dict[str, Any]:
    command = [sys.executable, "-c", _PROBE, *_NAMES]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        error = f"exit status {run.returncode}\n{run.stderr}".strip()
        answer = {"hook_ran": None, "classes": {}, "error": error}
    return answer


def _reason(installed: bool, answer: dict[str, Any]) -> str:
    if os.environ.get("MERGEKIT_BREADCRUMBS") == "0":
        return "switched off by MERGEKIT_BREADCRUMBS=0. Unset it to switch it on."
    if _version("mergekit") == _MISSING:
        return (
            "there is no mergekit here. Install it with:"
            " pip install 'mergekit>=0.1.5,<0.2'"
        )
    if answer.get("error"):
        return (
            "mergekit cannot be imported here. Repair what this error names:\n"
            f"{answer['error']}"
        )
    if answer.get("said"):
        return str(answer["said"][0])
    if answer["hook_ran"]:
        return (
            "another package has put the classes above in the place of this one's."
            " Uninstall it, or switch it off."
        )
    if installed:
        reason = (
            "this Python has not run the hook file, as it does only for its own"
            " site-packages (not with -S, nor for a pip --target directory on"
            " PYTHONPATH). Install the package into this environment"
        )
    else:
        reason = (
            "the start-up hook is not installed. Install the package again (pip install"
            " --force-reinstall --no-deps mergekit-breadcrumbs, or . in a checkout)"
        )
    return f"{reason}, or write `import mergekit_breadcrumbs` before merging in Python."


def _hook_installed() -> bool:
    try:
        ours = files("mergekit-breadcrumbs") or []
    except PackageNotFoundError:
        return False
    present = {file.name for file in ours if Path(str(file.locate())).exists()}
    return present.issuperset(_HOOK_FILES)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _MISSING
