"""Whatever stands in a config file: problems are said, nothing is raised."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mergekit.options import MergeOptions
from support.checked_configs import MODELS, MODULES, SLICES, make_models

from mergekit_breadcrumbs.check.problems import place_name
from mergekit_breadcrumbs.check.run import check_text

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _beside_the_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    root = make_models(tmp_path_factory.mktemp("models"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield


def _check(text: str) -> None:
    """Check a config; each problem fits on a line and is in the file."""
    checked = check_text(text, MergeOptions())
    lines = len(re.findall(r"[\n\r\x85\u2028\u2029]", text)) + 1
    for problem in checked.problems:
        assert str(problem)
        assert "\n" not in place_name(problem.place)
        assert problem.line is None or 1 <= problem.line <= lines
    if not checked.problems.count("error"):
        assert checked.config is not None
        assert checked.tensors


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**400, 10**401),
    st.floats(),
    st.dates(),
    st.binary(max_size=3),
    st.text(max_size=5),
    st.sampled_from(["weight", "base", "math", "breadcrumbs", "union", "*", "a@b@c"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["value", "filter", "model", "parameters", "weight"]),
                st.text(max_size=3),
                st.integers(0, 3),
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


def _places(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for step, inner in items:
            yield from _places(inner, (*place, step))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A right config in which one to three values are replaced, removed or added."""
    text = draw(st.sampled_from([MODELS, SLICES, MODULES]))
    data = {"": copy.deepcopy(yaml.safe_load(text))}
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(list(_places(data))[1:]))
        node: Any = data
        for step in way:
            node = node[step]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            node[last] = draw(VALUES)
        elif action == "remove" and way:
            del node[last]
        elif isinstance(node[last], dict):
            node[last][draw(st.one_of(st.text(max_size=4), SCALARS))] = draw(VALUES)
        elif isinstance(node[last], list):
            node[last].append(draw(VALUES))
    return str(yaml.safe_dump(data[""], sort_keys=False))


@settings(max_examples=300)
@given(mutated())
def test_mutated_configs(text: str) -> None:
    """A config with some values changed never ends in a traceback."""
    _check(text)


@settings(max_examples=300)
@given(st.text(max_size=60))
@example("!!timestamp x")
@example("!!bool x")
@example("{\x85")
@example("!!python/object:os.system x")
@example("? [a]\n: b")
@example("? {a: b}\n: c")
@example("[" * 5000)
@example("a: " * 50)
@example("<<: 1")
@example("<<: [1]")
@example("merge_method: &a [*a]")
@example("models: &a {model: base, parameters: *a}")
@example("modules: &a {x: *a}")
@example("\x00")
@example("a: 0x")
@example("a: 2024-99-99")
@example("a: 1" + "0" * 5000)
def test_any_text(text: str) -> None:
    """Text that is no config at all, or odd YAML, never ends in a traceback."""
    _check(text)


@settings(max_examples=200)
@given(st.data())
def test_cut_and_pasted_text(data: st.DataObject) -> None:
    """A config with a piece of its text moved or lost never ends in a traceback."""
    text = data.draw(st.sampled_from([MODELS, SLICES, MODULES]))
    start, end, to = (data.draw(st.integers(0, len(text))) for _ in range(3))
    rest = text[:start] + text[max(start, end) :]
    piece = data.draw(st.sampled_from(["", text[start:end], "\t", "- ", ": ", "&a *a"]))
    _check(rest[:to] + piece + rest[to:])
