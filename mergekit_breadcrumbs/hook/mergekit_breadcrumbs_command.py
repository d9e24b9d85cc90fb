"""The command `mergekit-breadcrumbs`, which is installed beside the package, not in it.

Where another module of the package's name hides it, or it is damaged, the command can
then still say so: it runs `status` from its file.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NoReturn

PACKAGE = "mergekit_breadcrumbs"


def main() -> None:
    """Run the command; where that is impossible, say why and exit with 1."""
    own, found = installed(), found_first()
    wants_status = sys.argv[1:] == ["status"]
    # A checkout on PYTHONPATH may run, but it cannot say that it hides something.
    runs = found == own or (not wants_status and (found / "cli.py").is_file())
    failure: BaseException | None = None
    if runs:
        try:
            from mergekit_breadcrumbs.cli import main as command
        except (Exception, SystemExit) as error:
            failure = error
        else:
            command()
            return
    explain(own, failure, wants_status=wants_status)


def installed() -> Path:
    """Return the folder of the package that this file was installed with."""
    beside = str(Path(__file__).parent)
    # What is installed as editable is in a folder that comes later in the path.
    first = sys.path.index(beside) if beside in sys.path else 0
    for folder in (*sys.path[first:], *sys.path):
        if Path(folder, PACKAGE, "status.py").is_file():
            return Path(folder, PACKAGE).resolve()
    raise SystemExit(
        "mergekit-breadcrumbs is installed incompletely. Install it again:"
        " pip install --force-reinstall --no-deps mergekit-breadcrumbs"
    )


def found_first() -> Path:
    """Return the folder, or the file, that Python finds under the package's name."""
    spec = PathFinder.find_spec(PACKAGE)
    assert spec is not None  # there is the installed one at least
    places = [*(spec.submodule_search_locations or []), spec.origin]
    return Path(str(places[0])).resolve()


def explain(
    own: Path, failure: BaseException | None, *, wants_status: bool
) -> NoReturn:
    """Print what `status` of the installed package has to say, and exit."""
    spec = spec_from_file_location(f"{PACKAGE}_status", own / "status.py")
    assert spec is not None
    assert spec.loader is not None
    status = module_from_spec(spec)
    spec.loader.exec_module(status)
    active, text = status.describe()
    if failure is not None:
        text += f"\n\nThe command itself cannot run: {failure!r}"
    print(text, file=sys.stdout if wants_status else sys.stderr)
    raise SystemExit(0 if active and wants_status and failure is None else 1)
