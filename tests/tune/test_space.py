"""What is searched in a config, and where."""

import itertools

import pytest
from mergekit.merge_methods import registered_methods

from mergekit_breadcrumbs.core.selection import slice_counts
from mergekit_breadcrumbs.core.stored import top_counts
from mergekit_breadcrumbs.tune.methods import method_of
from mergekit_breadcrumbs.tune.rivals import as_rival, space_of_rival
from mergekit_breadcrumbs.tune.search import Search, Target
from mergekit_breadcrumbs.tune.space import (
    corners,
    cut_for_files,
    inputs_of,
    read_search,
    space_of,
)

CONFIG = {
    "merge_method": "breadcrumbs",
    "base_model": "/models/base",
    "models": [
        {"model": "/models/base"},
        {"model": "/a/math", "parameters": {"weight": 0.5, "gamma": 0.02}},
        {"model": "/a/code", "parameters": {"weight": 0.5}},
    ],
    "parameters": {"density": 0.9, "lambda": 0.7, "granularity": "row"},
}


@pytest.mark.parametrize(
    ("text", "search"),
    [
        ("density=0.1:0.9", Search("density", 0.1, 0.9)),
        ("lambda=1e-2:2:log", Search("lambda", 0.01, 2.0, log=True)),
        (" weight = -1 : 1 ", Search("weight", -1.0, 1.0)),
        ("gamma=0:0", Search("gamma", 0.0, 0.0)),
    ],
)
def test_read(text, search):
    """A range is read as it is written."""
    assert read_search(text) == search


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("density", "must be NAME=LOW:HIGH"),
        ("density=0.1", "must be NAME=LOW:HIGH"),
        ("density=a:b", "must be NAME=LOW:HIGH"),
        ("density=0.1:0.9:lin", "must be NAME=LOW:HIGH"),
        ("=0:1", "must be NAME=LOW:HIGH"),
        ("density=0.9:0.1", "density: low must be at most high; got 0.9:0.1"),
        ("density=nan:0.1", "density: low and high must be finite"),
        ("density=0:inf", "density: low and high must be finite"),
        ("gamma=0:0.1:log", "gamma: low must be more than 0 with :log; got 0"),
    ],
)
def test_read_refuses(text, message):
    """What is no range is refused with what is wrong."""
    with pytest.raises(ValueError, match=message):
        read_search(text)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("breadcrumbs", ["lambda", "density", "gamma"]),
        ("breadcrumbs_ties", ["lambda", "density", "gamma"]),
        ("task_arithmetic", ["lambda"]),
        ("ties", ["lambda", "density"]),
        ("della", ["lambda", "density"]),
    ],
)
def test_usual(method, names):
    """Without a wish, lambda, density and gamma are searched where they do anything."""
    space = space_of(CONFIG, method_of(method), [])
    assert [search.name for search in space.searches] == names
    assert list(space.targets.values()) == [Target(name) for name in names]


def test_weights():
    """Each model has a weight of its own, the base has none; others are one for all."""
    space = space_of(CONFIG, method_of("breadcrumbs"), [Search("weight", 0, 1)])
    assert space.targets == {
        "weight of math": Target("weight", "/a/math"),
        "weight of code": Target("weight", "/a/code"),
    }
    assert space.settings({"weight of code": 0.3}) == {Target("weight", "/a/code"): 0.3}


@pytest.mark.parametrize(
    ("method", "wanted", "message"),
    [
        ("breadcrumbs", ["gama"], "no parameter gama that is a number; did you mean g"),
        ("breadcrumbs", ["granularity"], "no parameter granularity that is a number"),
        ("breadcrumbs", ["normalize"], "no parameter normalize that is a number"),
        ("breadcrumbs", ["gamma", "gamma"], "gamma is searched twice"),
        ("task_arithmetic", ["density"], "no parameter density"),
        ("slerp", [], "say what to search with --search NAME=LOW:HIGH: slerp has t"),
        ("model_stock", [], "model_stock has no parameter that is a number"),
    ],
)
def test_space_refuses(method, wanted, message):
    """What cannot be searched is refused with what could be."""
    with pytest.raises(ValueError, match=message):
        space_of(CONFIG, method_of(method), [Search(name, 0, 1) for name in wanted])


def test_methods():
    """Every method of mergekit's can be asked, and one that is none is an error."""
    for method in registered_methods():
        found = method_of(method.spec.name)
        assert set(found.numbers) <= found.names
        assert found.shared | found.defaults.keys() <= found.names
    with pytest.raises(ValueError, match=r"no merge method 'tie'; did you mean ties\?"):
        method_of("tie")


def test_inputs():
    """Inputs are found in slices and modules, once each, without the base of each."""
    part = {
        "base_model": "b",
        "sources": [{"model": "b"}, {"model": "x"}, {"model": "a"}],
    }
    config = {"modules": {"m": {"slices": [part, {"sources": [{"model": "x"}]}]}}}
    assert inputs_of(config) == ["x", "a"]


@pytest.mark.parametrize(("count", "expected"), [(1, 2), (3, 8), (4, 6), (9, 11)])
def test_corners(count, expected):
    """All corners of a small space are tried, of a large one both ends of each."""
    names = [f"p{i}" for i in range(count)]
    searches = [Search(name, i, i + 1) for i, name in enumerate(names)]
    space = space_of(CONFIG, method_of("breadcrumbs"), [])
    space = type(space)(tuple(searches), {})
    found = list(corners(space))
    assert len(found) == expected == len({tuple(c.values()) for c in found})
    for search in searches:
        assert {c[search.name] for c in found} == {search.low, search.high}


@pytest.mark.parametrize(
    ("ranges", "fixed", "held", "cut"),
    [
        ((0.02, 0.95, 0, 0.05), {}, 0.2, "density up to 0.15"),
        ((0.02, 0.95, 0, 0.05), {}, 0.1, "density up to 0.075, gamma up to 0.025"),
        ((0.02, 0.95, None, None), {"gamma": 0.01}, 0.2, "density up to 0.19"),
        ((0.02, 0.95, None, None), {}, 0.3, "density up to 0.3"),
        ((None, None, 0, 0.2), {"density": 0.1}, 0.2, "gamma up to 0.1"),
    ],
)
def test_cut(ranges, fixed, held, cut):
    """What is searched stays within what the smallest file holds."""
    wanted = []
    if ranges[0] is not None:
        wanted.append(Search("density", *ranges[:2]))
    if ranges[2] is not None:
        wanted.append(Search("gamma", *ranges[2:]))
    space = space_of(CONFIG, method_of("breadcrumbs"), wanted)
    found, note = cut_for_files(space, {"/a/x": 0.9, "/f/math": held}, fixed)
    assert f"The file of math holds {held:g}" in note
    assert note.endswith(f"{cut.replace('up to', 'is searched up to')}.")
    top = {s.name: s.high for s in found.searches}
    for n in (1, 7, 100, 4096, 12345):
        density = top.get("density", fixed.get("density", 0.0))
        counts = slice_counts(n, density, top.get("gamma", fixed.get("gamma", 0.0)))
        assert counts.kept + counts.large <= top_counts(n, held).kept


@pytest.mark.parametrize(
    ("high", "held", "fixed"), [(0.15, 0.2, {}), (0.95, 1, {}), (0.5, 0.51, {})]
)
def test_not_cut(high, held, fixed):
    """Where files hold enough nothing is cut, and nothing is said."""
    wanted = [Search("density", 0.02, high), Search("gamma", 0, 0.01)]
    space = space_of(CONFIG, method_of("breadcrumbs"), wanted)
    assert cut_for_files(space, {"m": held}, fixed) == (space, "")
    assert cut_for_files(space, {}, fixed) == (space, "")


def test_nothing_left_of_it():
    """A range that begins above what a file holds is refused."""
    space = space_of(CONFIG, method_of("breadcrumbs"), [Search("density", 0.3, 0.9)])
    message = r"The file of m holds 0.2 of each.*so density cannot be 0.3 or more"
    with pytest.raises(ValueError, match=message):
        cut_for_files(space, {"m": 0.2}, {"gamma": 0.01})


def test_rival():
    """Another method gets the same config, less what it has no use for."""
    method = method_of("task_arithmetic")
    rival = as_rival(CONFIG, method)
    assert rival == {
        "merge_method": "task_arithmetic",
        "base_model": "/models/base",
        "models": [
            {"model": "/models/base"},
            {"model": "/a/math", "parameters": {"weight": 0.5}},
            {"model": "/a/code", "parameters": {"weight": 0.5}},
        ],
        "parameters": {"density": 0.9, "lambda": 0.7},
    }
    assert CONFIG["models"][1]["parameters"]["gamma"] == 0.02
    wanted = [Search("gamma", 0, 0.1), Search("lambda", 0.5, 1)]
    found = space_of_rival(rival, method, wanted)
    assert found.searches == (Search("lambda", 0.5, 1),)


def test_rival_without_parameters():
    """Parameters of which none is left are left out themselves."""
    only = {**CONFIG, "parameters": {"gamma": 0.1}}
    assert "parameters" not in as_rival(only, method_of("linear"))


def test_every_corner_is_a_point():
    """A space holds its corners, and nothing beyond."""
    space = space_of(CONFIG, method_of("breadcrumbs"), [])
    assert all(space.holds(corner) for corner in corners(space))
    for corner, search in itertools.product(corners(space), space.searches):
        assert not space.holds({**corner, search.name: search.high + 0.01})
