"""The two start-up files are what their one source gives, and say the same."""

import pkgutil
import runpy

import pytest
from support.environments import HOOK_FILES
from support.repository import HOOK

import mergekit_breadcrumbs

WRITTEN = runpy.run_path(str(HOOK / "write.py"))["files"]()


def test_each_file_is_written() -> None:
    """Beside the source there are the two files, and no other."""
    assert tuple(WRITTEN) == HOOK_FILES
    assert {path.name for path in HOOK.iterdir() if path.suffix != ".py"} == {*WRITTEN}


@pytest.mark.parametrize("name", HOOK_FILES)
def test_file_is_what_its_source_gives(name: str) -> None:
    """A change of the source, or of a file by hand, does not go unnoticed."""
    said = "run python mergekit_breadcrumbs/hook/write.py"
    assert (HOOK / name).read_text(encoding="utf-8") == WRITTEN[name], said


def test_both_call_the_same() -> None:
    """Python 3.15's `.start` names the callable that the `.pth` calls (PEP 829)."""
    pth, start = (WRITTEN[name] for name in HOOK_FILES)
    assert pth.count("\n") == 1, "each line of a .pth file is run on its own"
    assert pth.startswith("import "), "any other line would be taken for a path"
    [entry] = start.split()
    assert pkgutil.resolve_name(entry) is mergekit_breadcrumbs._arm
    module, _, name = entry.partition(":")
    assert f"from {module} import {name}\\n    {name}()\\n" in pth
