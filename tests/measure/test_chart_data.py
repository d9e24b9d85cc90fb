"""What the picture shows, as numbers."""

import pytest
from support.inspected import report, tensor, vector

from mergekit_breadcrumbs.measure.chart_data import OUTSIDE, Marker, chart_data

Q = "model.layers.0.self_attn.q_proj.weight"
Q1 = "model.layers.1.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
EMBED = "model.embed_tokens.weight"


def test_histograms_are_added_bin_by_bin():
    """Bins of several tensors are aligned by magnitude; shares are of all elements."""
    one = vector("m", bins=(-8, [8, 0], [0, 80], [0, 2]), zero=10)
    two = vector("m", bins=(-7, [8, 0, 0], [40, 50, 0], [0, 0, 2]))
    [panel] = chart_data(report(tensor(Q, one), tensor(Q1, two), models=("m",))).panels
    assert panel.name == "m"
    assert panel.edges == [2.0**-2, *(2 ** (i / 4) for i in (-7, -6, -5, -4))]
    assert panel.small == [4.0, 4.0, 0.0, 0.0]
    assert panel.kept == [0.0, 60.0, 25.0, 0.0]
    assert panel.large == [0.0, 1.0, 0.0, 1.0]
    assert panel.zero == 5.0
    assert sum(panel.small + panel.kept + panel.large) + panel.zero == 100.0


def test_squared_norm_by_bin():
    """Elements weigh as the square of their bin's middle."""
    heavy = vector("m", bins=(0, [0, 0, 0, 0, 0], [4, 0, 0, 0, 1], [0] * 5))
    [panel] = chart_data(report(tensor(Q, heavy), models=("m",))).panels
    assert panel.squares == pytest.approx([50.0, 0, 0, 0, 50.0])
    assert panel.surviving == 70.0


def test_markers():
    """The cut of the median element, and of those at ten and ninety percent."""
    cuts = [float(i) for i in range(1, 11)]
    tensors = [
        tensor(f"layers.{i}.q_proj", vector("m", lower=(c, c, 1, 1), upper=None))
        for i, c in enumerate(cuts)
    ]
    [panel] = chart_data(report(*tensors, models=("m",))).panels
    assert panel.lower == Marker(median=5.0, lowest=1.0, highest=9.0)
    assert panel.upper is None


def test_markers_of_rows():
    """Of rows the middle of the range stands for the tensor, on a log axis."""
    row = vector("m", lower=(1.0, 4.0, 9, 9), upper=(0.0, 4.0, 1, 0))
    [panel] = chart_data(report(tensor(Q, row), models=("m",))).panels
    assert panel.lower == Marker(2.0, 2.0, 2.0)
    assert panel.upper is None, "zero has no place on a log axis"


def test_heatmap():
    """Roles by layers, over all models; tensors without a layer come first."""
    half = {"squares": (0, 50, 50)}
    heat = chart_data(
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
    assert chart_data(report(big, models=("m",))).limits == (1.0, 2**0.25)
