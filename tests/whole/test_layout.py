"""Which module may import which, and that every example in a docstring runs."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import mergekit_breadcrumbs

PACKAGE = Path(mergekit_breadcrumbs.__file__).parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
}
MODULES = ["mergekit_breadcrumbs"] + [
    module.name
    for module in pkgutil.walk_packages([str(PACKAGE)], prefix="mergekit_breadcrumbs.")
]

# A module imports only from the rooms above its own; a folder is one room.
ROOMS = [
    "wording",
    "core",
    "host",
    "check",
    "measure",
    "status",
    "demo",
    "cli_options",
    "cli",
]
MATHS = sorted(name for name in SOURCES if name.startswith("core."))
START_UP = "__init__"


def imports(source: str, *, everywhere: bool = True) -> set[str]:
    """Return what a source imports, at module level or everywhere, by full name.

    What stands under `if TYPE_CHECKING:` is never executed and does not count.
    """
    names: set[str] = set()
    for node in _statements(ast.parse(source), everywhere):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = inner.removeprefix("mergekit_breadcrumbs.") in SOURCES
                names.add(inner if is_module else str(node.module))
    return names - {"__future__"}


def _statements(node: ast.AST, everywhere: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if everywhere or not isinstance(child, ast.FunctionDef):
            yield child
            yield from _statements(child, everywhere)


def _room(name: str) -> str:
    return name.removeprefix("mergekit_breadcrumbs.").partition(".")[0]


def test_reading_of_imports() -> None:
    """Imports are found in every form, in functions, and not for type checkers."""
    source = """
import os.path, torch
from mergekit_breadcrumbs import cli
from mergekit_breadcrumbs.core.merge import merge_task_vectors
if TYPE_CHECKING:
    import typing
try:
    import numpy as np
except ImportError:
    pass
class Thing:
    def method(self):
        from mergekit.merge import run_merge
"""
    module_level = {
        "os.path",
        "torch",
        "numpy",
        "mergekit_breadcrumbs.cli",
        "mergekit_breadcrumbs.core.merge",
    }
    assert imports(source, everywhere=False) == module_level
    assert imports(source) == module_level | {"mergekit.merge"}


def test_every_module_has_a_room() -> None:
    """No module without a place in the order above, and no place without a module."""
    assert {_room(name) for name in SOURCES} == {*ROOMS, START_UP}


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {START_UP}))
def test_arrows_run_one_way(name: str) -> None:
    """A module imports only modules of rooms above its own, or of its own."""
    allowed = ROOMS[: ROOMS.index(_room(name))]
    if _room(name) != name:
        allowed.append(_room(name))
    found = imports(SOURCES[name].read_text())
    ours = {m for m in found if m.startswith("mergekit_breadcrumbs")}
    assert {_room(module) for module in ours} <= set(allowed)


@pytest.mark.parametrize("name", MATHS)
def test_maths_knows_only_torch(name: str) -> None:
    """Selection and merging need torch, and nothing of mergekit."""
    found = {module.partition(".")[0] for module in imports(SOURCES[name].read_text())}
    third_party = found - sys.stdlib_module_names - {"mergekit_breadcrumbs"}
    assert third_party == {"torch"}


def test_start_up_imports_nothing_new() -> None:
    """At module level the start-up hook imports what every Python has loaded anyway."""
    source = SOURCES[START_UP].read_text()
    assert imports(source, everywhere=False) == {"os", "sys"}
    deferred = {module.partition(".")[0] for module in imports(source)}
    assert deferred <= sys.stdlib_module_names | {"mergekit_breadcrumbs"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    """Every example of the module prints what it says."""
    # The private ones that need mergekit rely on its being imported: see `method`.
    importlib.import_module("mergekit.merge_methods")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", mergekit_breadcrumbs.__all__)
def test_public_names_have_an_example(name: str) -> None:
    """Each public name has an example, and it prints what it says."""
    public = getattr(mergekit_breadcrumbs, name)
    # The class names another module than its own as its home: see `_method`.
    written_in = next(
        f.__globals__
        for f in (public, *vars(public).values())
        if inspect.isfunction(f) and f.__code__.co_filename != "<string>"
    )
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(public, name, globs=dict(written_in)):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 0


def test_public_names_are_listed() -> None:
    """`dir` shows what is resolved lazily; other names are an AttributeError."""
    assert mergekit_breadcrumbs.__version__ == version("mergekit-breadcrumbs")
    assert {*mergekit_breadcrumbs.__all__, "__version__"} <= set(
        dir(mergekit_breadcrumbs)
    )
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = mergekit_breadcrumbs.nonsense
