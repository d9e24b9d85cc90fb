"""What users see: the public names, and every example in a docstring."""

import doctest
import importlib
from importlib.metadata import version

import pytest
from support.repository import SOURCES, START_UP

import mergekit_breadcrumbs

PACKAGE = "mergekit_breadcrumbs"


@pytest.mark.parametrize("name", SOURCES)
def test_examples_in_docstrings(name: str) -> None:
    """Every example of the module prints what it says."""
    module = PACKAGE if name == START_UP else f"{PACKAGE}.{name}"
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.mark.parametrize("name", mergekit_breadcrumbs.__all__)
def test_public_names_have_an_example(name: str) -> None:
    """Each public name has an example, and it prints what it says."""
    public = getattr(mergekit_breadcrumbs, name)
    home = importlib.import_module(mergekit_breadcrumbs._HOMES[name])
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(public, name, globs=dict(vars(home))):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 0


def test_public_names_are_listed() -> None:
    """`dir` shows what is resolved lazily; other names are an AttributeError."""
    assert list(mergekit_breadcrumbs._HOMES) == mergekit_breadcrumbs.__all__
    assert mergekit_breadcrumbs.__version__ == version("mergekit-breadcrumbs")
    assert {*mergekit_breadcrumbs.__all__, "__version__"} <= set(
        dir(mergekit_breadcrumbs)
    )
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = mergekit_breadcrumbs.nonsense
