"""The picture has its size, whatever it shows, and drawing it leaves no trace."""

import struct
import sys

import pytest
from support.inspected import NO_CHANGE, report, tensor, usual, vector
from support.repository import ROOT, run

from mergekit_breadcrumbs.measure.picture import draw

Q = "model.layers.0.self_attn.q_proj.weight"

PICTURES = {
    "one model, one layer": usual("m", layers=1),
    "two models": usual(),
    "five": usual(*"abcde"),
    "eight models, a hundred layers": usual(*"abcdefgh", layers=100),
    "only layers": report(tensor(Q, vector("a"), layer=0), models=("a",), layers=[0]),
    "an all-zero model": report(
        tensor(Q, vector("a", **NO_CHANGE, lower=None, upper=None), layer=0),
        models=("a",),
    ),
    "no tensor at all": report(models=("a",)),
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


PROBE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import mergekit_breadcrumbs.measure.run
import mergekit_breadcrumbs.measure.picture
assert "matplotlib" not in sys.modules, "imported before it is needed"
import matplotlib
before = matplotlib.rcParams.copy()  # does not choose a backend, as reading does
from support.inspected import usual
mergekit_breadcrumbs.measure.picture.draw(usual(), Path({file!r}))
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""


@pytest.mark.slow
def test_matplotlib_is_left_alone(tmp_path):
    """It is imported late, without pyplot, and none of its settings change."""
    tests, file = str(ROOT / "tests"), str(tmp_path / "picture.png")
    done = run(sys.executable, "-c", PROBE.format(tests=tests, file=file))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
