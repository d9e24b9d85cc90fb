"""The picture of a study has its size, whatever it shows, and leaves no trace."""

import math
import struct
import sys

import pytest
from support.repository import ROOT, run
from support.studied import studied

from mergekit_breadcrumbs.tune.picture import best_so_far, draw
from mergekit_breadcrumbs.tune.search import Search

PICTURES = {
    "one parameter": studied(1),
    "three, with rivals": studied(3, rivals=["task_arithmetic", "ties"]),
    "nine, and some failed": studied(9, failed={3, 4, 20}),
    "sixteen": studied(16),
    "all failed": studied(2, 3, failed={0, 1, 2}),
    "one trial": studied(3, 1),
    "tiny scores, relative": studied(3, scale=1e-9, relative=True),
    "huge scores": studied(3, scale=1e6),
    "all scores equal": studied(3, scale=0.0),
    "a fixed value": studied(searches=[Search("gamma", 0.01, 0.01)]),
    "a wide range": studied(searches=[Search("lambda", 1e-6, 1e3, log=True)]),
    "names that are formulas": studied(searches=[Search("weight of $x^$_y\x1b", 0, 1)]),
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


def test_best_so_far():
    """It never goes down, begins with the first score, and ends with the best."""
    trials = studied(2, 12, failed={0, 5}).study.trials
    found = list(best_so_far(trials))
    assert math.isnan(found[0])
    assert found[1] == trials[1].score
    assert found[5] == found[4]
    assert found[1:] == sorted(found[1:])
    assert found[-1] == max(t.score for t in trials if t.score is not None)


PROBE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import mergekit_breadcrumbs.tune.picture
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
