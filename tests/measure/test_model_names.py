"""Names of models, shortened."""

import pytest

from mergekit_breadcrumbs.measure.model_names import short_names

NAMES = {
    "paths and hub names": (["/m/math", "org/code"], ["math", "code"]),
    "the same last part": (["/a/x/final", "/b/x/final"], ["a/x/final", "b/x/final"]),
    "adapters": (["/b/base+/l/one", "/b/base+/l/two"], ["base+one", "base+two"]),
    "a slash at the end": (["/m/math/", "/m/code"], ["math", "code"]),
    "a revision": (["org/m@v1", "org/m@v2"], ["m@v1", "m@v2"]),
    "too long": (["o/" + "a" * 40], ["a" * 14 + "…" + "a" * 13]),
    "none": ([], []),
}


@pytest.mark.parametrize(("models", "short"), NAMES.values(), ids=NAMES)
def test_names(models, short):
    """Short, and still different."""
    assert short_names(models) == dict(zip(models, short, strict=True))


def test_long_names_that_differ_in_the_middle():
    """They are cut less, so that they still differ."""
    models = [f"o/{'a' * 20}{i}{'b' * 20}" for i in range(8)]
    assert len(set(short_names(models).values())) == 8
