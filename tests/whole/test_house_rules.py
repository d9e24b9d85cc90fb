"""Private names stay at home, and functions and files stay short."""

import ast

import pytest
from support.repository import SOURCES


def _is_private(name: str) -> bool:
    # These three are a named tuple's public face.
    is_public = name in {"_asdict", "_fields", "_replace"} or name.endswith("__")
    return name.startswith("_") and not is_public


def _own_attributes(tree: ast.Module) -> set[str]:
    """Return the names of methods and fields of the classes in a module."""
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        for statement in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(statement, ast.FunctionDef):
                own.add(statement.name)
            elif isinstance(statement, ast.AnnAssign):
                own.add(ast.unparse(statement.target))
            elif isinstance(statement, ast.Assign):
                own.update(map(ast.unparse, statement.targets))
    return own


def foreign_privates(source: str) -> set[str]:
    """Return where a source uses private names that are not its own."""
    tree = ast.parse(source)
    own = _own_attributes(tree) | {"self", "cls"}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            foreign = own.isdisjoint({node.attr, ast.unparse(node.value)})
            if foreign and _is_private(node.attr):
                found.add(ast.unparse(node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = ".".join(
                [getattr(node, "module", ""), *(a.name for a in node.names)]
            )
            if any(map(_is_private, names.split("."))):
                found.add(ast.unparse(node))
    return found


def test_foreign_privates_are_seen() -> None:
    """Private names are seen in imports and in attributes, unless they are its own."""
    source = """
from mergekit_breadcrumbs.core.ranks import _places
from mergekit._data import thing
import numpy._core as core
from a import b as _b
class Thing:
    _kept: int
    _table = {}
    def _find(self):
        self._size = self._foreign
        return other._size + other._kept + other._find() + Thing._table
def f(vector, result):
    return vector._cuts, result._replace(a=1), vector.__dict__, registry._METHODS["x"]
"""
    assert foreign_privates(source) == {
        "from mergekit_breadcrumbs.core.ranks import _places",
        "from mergekit._data import thing",
        "import numpy._core as core",
        "vector._cuts",
        "registry._METHODS",
    }


@pytest.mark.parametrize("name", SOURCES)
def test_private_names_stay_at_home(name: str) -> None:
    """No module uses private names of another; `host` does of mergekit's alone."""
    found = foreign_privates(SOURCES[name])
    if name.startswith("host."):
        found = {use for use in found if "mergekit_breadcrumbs" in use}
    assert found == set()


def long_functions(source: str) -> set[str]:
    """Return the functions whose bodies, without docstrings, are over 50 lines."""
    return {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno
        - node.body[ast.get_docstring(node) is not None and len(node.body) > 1].lineno
        >= 50
    }


def test_long_functions_are_seen() -> None:
    """Fifty lines of body are enough, and a docstring is none of them."""
    fits = 'def fits():\n    """One.\n\n    Two."""\n' + "    x = 1\n" * 50
    assert long_functions(fits) == set()
    assert long_functions(f"{fits}    x = 1\n") == {"fits"}
    method = "class C:\n    def f(x):\n" + "        x = 1\n" * 51
    assert long_functions(method) == {"f"}


@pytest.mark.parametrize("name", SOURCES)
def test_modules_fit_in_the_head(name: str) -> None:
    """No file has more than 240 lines, and no function more than 50 of body."""
    assert SOURCES[name].count("\n") <= 240
    assert long_functions(SOURCES[name]) == set()
