"""What the picture shows, and that drawing it leaves no trace."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support import inspected
from support.inspected import NO_CHANGE, report, tensor, usual, vector

from mergekit_breadcrumbs.measure.chart_data import OUTSIDE, Marker, shown
from mergekit_breadcrumbs.measure.picture import draw

Q = "model.layers.0.self_attn.q_proj.weight"
Q1 = "model.layers.1.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
EMBED = "model.embed_tokens.weight"


def test_histograms_are_added_bin_by_bin():
    """Bins of several tensors are aligned by magnitude; shares are of all elements."""
    one = vector("m", bins=(-8, [8, 0], [0, 80], [0, 2]), zero=10)
    two = vector("m", bins=(-7, [8, 0, 0], [40, 50, 0], [0, 0, 2]))
    [panel] = shown(report(tensor(Q, one), tensor(Q1, two), models=("m",))).panels
    assert panel.name == "m"
    assert panel.edges == [2.0**-2, *(2 ** (i / 4) for i in (-7, -6, -5, -4))]
    assert panel.small == [4.0, 4.0, 0.0, 0.0]
    assert panel.kept == [0.0, 60.0, 25.0, 0.0]
    assert panel.large == [0.0, 1.0, 0.0, 1.0]
    assert panel.zero == 5.0
    assert sum(panel.small + panel.kept + panel.large) + panel.zero == 100.0


def test_squared_norm_by_bin():
    """Elements weigh as the square of their bin's middle."""
    figures = vector("m", bins=(0, [0, 0, 0, 0, 0], [4, 0, 0, 0, 1], [0] * 5))
    [panel] = shown(report(tensor(Q, figures), models=("m",))).panels
    assert panel.squares == pytest.approx([50.0, 0, 0, 0, 50.0])
    assert panel.surviving == 70.0


def test_markers():
    """The cut of the median element, and of those at ten and ninety percent."""
    cuts = [float(i) for i in range(1, 11)]
    tensors = [
        tensor(f"layers.{i}.q_proj", vector("m", lower=(c, c, 1, 1), upper=None))
        for i, c in enumerate(cuts)
    ]
    [panel] = shown(report(*tensors, models=("m",))).panels
    assert panel.lower == Marker(median=5.0, lowest=1.0, highest=9.0)
    assert panel.upper is None


def test_markers_of_rows():
    """Of rows the middle of the range stands for the tensor, on a log axis."""
    row = vector("m", lower=(1.0, 4.0, 9, 9), upper=(0.0, 4.0, 1, 0))
    [panel] = shown(report(tensor(Q, row), models=("m",))).panels
    assert panel.lower == Marker(2.0, 2.0, 2.0)
    assert panel.upper is None, "zero has no place on a log axis"


def test_heatmap():
    """Roles by layers, over all models; tensors without a layer come first."""
    half = {"squares": (0, 50, 50)}
    heat = shown(
        report(
            tensor(EMBED, vector("a", **half), vector("b")),
            tensor(Q, vector("a", squares=(0, 90, 10)), vector("b", **half), layer=0),
            tensor(DOWN, vector("a", **half), layer=1),
            models=("a", "b"),
        )
    ).heat
    assert heat.roles == ["embeddings", "attention q", "MLP down"]
    assert heat.columns == [OUTSIDE, "0", "1"]
    assert heat.shares == [[60.0, None, None], [None, 70.0, None], [None, None, 50.0]]


def test_limits_leave_out_what_is_tiny():
    """One element in a thousand may be off the axis, on the left."""
    many = vector("m", bins=(-400, [0] * 401, [1] + [0] * 399 + [2000], [0] * 401))
    big = tensor(Q, many).model_copy(update={"elements": 2001})
    assert shown(report(big, models=("m",))).limits == (1.0, 2**0.25)


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


def test_matplotlib_is_left_alone(tmp_path):
    """It is imported late, without pyplot, and none of its settings change."""
    tests, file = (
        str(Path(inspected.__file__).parents[1]),
        str(tmp_path / "picture.png"),
    )
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(tests=tests, file=file)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
