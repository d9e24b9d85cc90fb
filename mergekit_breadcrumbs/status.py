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

_HOOK_FILES = ("mergekit_breadcrumbs.pth", "mergekit_breadcrumbs.start")
_NAMES = ("breadcrumbs", "breadcrumbs_ties")
_PACKAGES = ("mergekit-breadcrumbs", "mergekit", "torch")
_MISSING = "not installed"
_OWN = Path(__file__).parent
_SUPPORTED = "'mergekit>=0.1.5,<0.2'"
_REINSTALL = "pip install --force-reinstall --no-deps"
_OFF_THE_PATH = "Rename it, or take the folder that it is in off PYTHONPATH."

# Run in a fresh interpreter, as `mergekit-yaml` is: in this process, importing the
# package has already changed the answer. Like `mergekit-yaml`, it does not look for
# modules in the working directory.
_PROBE = """
import sys
sys.path[:] = filter(None, sys.path)
import json, warnings
from importlib.machinery import PathFinder
ours = sys.modules.get("mergekit_breadcrumbs")
answer = {"hook_ran": hasattr(ours, "_arm"), "classes": {}, "found": {}}
for name in ("mergekit", "mergekit_breadcrumbs"):
    spec = PathFinder.find_spec(name)
    answer["found"][name] = spec and (
        spec.origin or list(spec.submodule_search_locations)[0]
    )
try:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from mergekit.merge_methods import registry
        for name in sys.argv[1:]:
            kind = type(registry.get(name))
            answer["classes"][name] = f"{kind.__module__}.{kind.__qualname__}"
        models = getattr(sys.modules.get("mergekit.common"), "ModelReference", None)
        answer["reader"] = getattr(getattr(models, "merged", None), "__module__", "")
    messages = [str(warning.message) for warning in caught]
    answer["said"] = [text for text in messages if "mergekit-breadcrumbs" in text]
except Exception as error:
    answer["error"] = f"{type(error).__name__}: {error}"
    answer["lacking"] = str(getattr(error, "name", ""))
if not answer["hook_ran"]:
    try:
        from mergekit_breadcrumbs import _arm
    except BaseException as error:
        answer["damage"] = f"{type(error).__name__}: {error}"
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
        "breadcrumb files": "read" if _reads(answer) else "not read",
    }
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {_visible(value)}" for name, value in facts.items()]
    verdict = "Active: mergekit merges with this package."
    if not active:
        verdict = f"Not active: {_reason(installed, answer)}"
    elif copy := _hiding(answer, "mergekit_breadcrumbs", _OWN):
        verdict += f" It is the one in {copy}, not the one installed in {_OWN}."
    return active, "\n".join([*lines, "", verdict, *_note(answer)])


def _reads(answer: dict[str, Any]) -> bool:
    reader: str = answer.get("reader", "")
    return reader.startswith("mergekit_breadcrumbs.")


def _visible(text: str) -> str:
    # Not that of `wording`: where the package is hidden, this module runs alone.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


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
    if other := _hiding(answer, "mergekit_breadcrumbs", _OWN):
        return f"Python finds {other} in this package's place. {_OFF_THE_PATH}"
    if answer.get("damage"):
        return (
            f"this package cannot be loaded ({answer['damage']}). Install it again:"
            f" {_REINSTALL} mergekit-breadcrumbs"
        )
    if _version("mergekit") == _MISSING and not answer["classes"]:
        return f"there is no mergekit here. Install it with: pip install {_SUPPORTED}"
    if answer.get("error"):
        return _why_no_mergekit(answer)
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
            "the start-up hook is not installed. Install the package again"
            f" ({_REINSTALL} mergekit-breadcrumbs, or . in a checkout)"
        )
    return f"{reason}, or write `import mergekit_breadcrumbs` before merging in Python."


def _why_no_mergekit(answer: dict[str, Any]) -> str:
    try:
        inits = [f for f in files("mergekit") or [] if f.match("mergekit/__init__.py")]
    except PackageNotFoundError:
        inits = []
    own = Path(str(inits[0].locate())).parent if inits else None
    if other := _hiding(answer, "mergekit", own):
        return f"Python finds {other} in mergekit's place. {_OFF_THE_PATH}"
    if answer.get("lacking", "").partition(".")[0] == "mergekit":
        return (
            "mergekit is installed incompletely, or this package does not support its"
            f" version ({answer['error']}). Install it again: {_REINSTALL} {_SUPPORTED}"
        )
    return (
        "mergekit cannot be imported here. Repair what this error names:\n"
        f"{answer['error']}"
    )


def _hiding(answer: dict[str, Any], name: str, own: Path | None) -> str | None:
    """Return what Python finds under a name, if that is not what is installed."""
    found: str | None = answer.get("found", {}).get(name)
    if found is None:
        return None
    path = Path(found).resolve()
    folder = path.parent if path.name == "__init__.py" else path
    # Where what is installed is not known, a single file is certainly something else.
    same = folder.is_dir() if own is None else folder == own.resolve()
    return None if same else found


def _note(answer: dict[str, Any]) -> list[str]:
    """Name a mergekit in the working directory, which only some commands find."""
    found = answer.get("found", {}).get("mergekit")
    for place in (Path("mergekit", "__init__.py"), Path("mergekit.py")):
        if place.is_file() and place.resolve() != Path(str(found)).resolve():
            return [
                f"In this folder `python -m` and `python -c` find {place.resolve()}"
                " in mergekit's place; mergekit's own commands do not."
            ]
    return []


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
