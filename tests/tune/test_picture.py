"""The picture of a study has its size, whatever it shows, and leaves no trace."""

import math
import struct
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.repository import ROOT, run
from support.studied import studied

from mergekit_breadcrumbs.tune.picture import apart, best_so_far, draw
from mergekit_breadcrumbs.tune.search import Search
from mergekit_breadcrumbs.tune.trials import Trial

FORMULA = "$x^$_y\x1b"


def with_input(name):
    report = studied()
    [best_input] = [c for c in report.contenders if c.name == "math"]
    best_input.name = name
    return report


def cut_off(trials):
    report = studied(rivals=["ties"])
    del report.study.trials[trials:]
    return report


PICTURES = {
    "one parameter": studied(1),
    "three, with rivals": studied(3, rivals=["task_arithmetic", "ties"]),
    "nine, and some failed": studied(9, failed={3, 4, 20}),
    "sixteen": studied(16),
    "all failed": studied(2, 3, failed={0, 1, 2}),
    "no trial": studied(2, 0),
    "one trial": studied(3, 1),
    "fewer trials than a rival": cut_off(5),
    "too few to say what matters": studied(9, 5),
    "more rivals than colours": studied(2, rivals=[f"method_{i}" for i in range(7)]),
    "tiny scores, relative": studied(3, scale=1e-9, relative=True),
    "huge scores": studied(3, scale=1e6),
    "all scores equal": studied(3, scale=0.0),
    "a fixed value": studied(searches=[Search("gamma", 0.01, 0.01)]),
    "a wide range": studied(searches=[Search("lambda", 1e-6, 1e3, log=True)]),
    "a narrow range": studied(searches=[Search("lambda", 0.6, 0.9, log=True)]),
    "a parameter whose name is a formula": studied(searches=[Search(FORMULA, 0, 1)]),
    "an input whose name is a formula": with_input(FORMULA),
}


@pytest.mark.slow
@pytest.mark.parametrize("of", PICTURES.values(), ids=PICTURES)
def test_size(of, tmp_path):
    """1600 by 1000 pixels, whatever is shown, and no warning on the way."""
    file = tmp_path / "picture.png"
    draw(of, file)
    header = file.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:]) == (1600, 1000)


HIGHEST = {
    "no trial": ([], []),
    "it never goes down": ([1.0, 3.0, 2.0, 4.0], [1.0, 3.0, 3.0, 4.0]),
    "nothing is above zero": ([-2.0, -3.0, -1.0], [-2.0, -2.0, -1.0]),
    "the first failed": ([None, 1.0], [math.nan, 1.0]),
    "one in between failed": ([1.0, None, 2.0], [1.0, 1.0, 2.0]),
    "all failed": ([None, None], [math.nan, math.nan]),
}


@pytest.mark.parametrize(("scores", "highest"), HIGHEST.values(), ids=HIGHEST)
def test_best_so_far(scores, highest):
    """It is the highest score up to each trial, and NaN before there is one."""
    trials = [Trial(n, {}, s, {}, None, 1.0, "complete") for n, s in enumerate(scores)]
    assert list(best_so_far(trials)) == pytest.approx(highest, nan_ok=True)


@given(st.lists(st.integers(-100, 100), max_size=5), st.integers(0, 50))
def test_apart(places, gap):
    """Labels are a gap apart, none above its line; where there is room, none moves."""
    places = sorted(places, reverse=True)
    found = apart(places, gap)
    assert all(above - below >= gap for above, below in pairwise(found))
    assert all(label <= place for label, place in zip(found, places, strict=True))
    if all(a - b >= gap for a, b in pairwise(places)):
        assert found == places


PROBE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import mergekit_breadcrumbs.tune.picture
import mergekit_breadcrumbs.tune.report
assert "matplotlib" not in sys.modules, "imported before it is needed"
import matplotlib
before = matplotlib.rcParams.copy()  # does not choose a backend, as reading does
from support.studied import studied
mergekit_breadcrumbs.tune.picture.draw(studied(), Path({file!r}))
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""


@pytest.mark.slow
def test_matplotlib_is_left_alone(tmp_path):
    """It is imported late, without pyplot, and none of its settings change."""
    tests, file = str(ROOT / "tests"), str(tmp_path / "picture.png")
    done = run(sys.executable, "-c", PROBE.format(tests=tests, file=file))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
