"""The tables and summaries, on reports that are made by hand."""

import io
import re

import pytest
from support.inspected import report, tensor, usual, vector

from mergekit_breadcrumbs.measure.table import print_report

Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    """The width is nobody's, whatever started the tests."""
    monkeypatch.delenv("COLUMNS", raising=False)


def printed(of, columns=None, monkeypatch=None):
    """What is printed where there is no terminal."""
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    file = io.StringIO()
    print_report(of, file)
    return file.getvalue()


def lines_of(text, title):
    """The cells of one table, by the first column."""
    after = text[text.index(title) :].split("\n\n")[0]
    return {
        cells[0]: cells[1:]
        for line in after.splitlines()
        if len(cells := re.split(r"  +| (?=[<\d-])", line.strip())) > 2
    }


def test_tensors_of_a_role_are_added_up():
    """Percentages are of sums over tensors, cuts from the least to the greatest."""
    first = vector("org/math", squares=(0, 30, 10), lower=(0.001, 0.002, 1, 1), zero=50)
    second = vector(
        "org/math", counts=(0, 100, 0), squares=(0, 60, 0), lower=None, upper=None
    )
    other = vector("org/math", upper=(9.0, 9.0, 1, 0))
    text = printed(
        report(
            tensor(Q, first, layer=0),
            tensor(Q.replace("0", "1"), second, layer=1),
            tensor(DOWN, other, layer=1),
            models=("org/math",),
        )
    )
    lines = lines_of(text, "math  weight")
    assert lines["attention q"] == [
        *("200", "25.0", "4.0", "95.0", "1.0"),
        *("1.0e-3..2.0e-3", "4.0e+00", "0.0", "90.0", "10.0"),
    ]
    assert lines["MLP down"][-5:] == ["5.0e-1", "9.0e+00", "1.0", "70.0", "29.0"]
    assert lines["all"] == [
        *("300", "16.7", "5.3", "93.3", "1.3"),
        *("1.0e-3..5.0e-1", "4.0e+00..9.0e+00", "0.5", "80.0", "19.5"),
    ]
    assert "math: 93.3 % kept, holding 80.0 % of the squared norm" in text
    assert "norm 14.1, 0.082 of the base's" in text
    assert "across models" not in text, "there is only one"


def test_where_models_meet():
    """Shares of all elements, and of those that several models change."""
    one = vector("org/math"), vector("org/code")
    together = {"kept": 154, "large": 58}
    text = printed(
        report(
            tensor(Q, *one, overlapping=80, opposed=20, layer=0, together=together),
            tensor(DOWN, *one, overlapping=0, opposed=0, layer=1),
        )
    )
    lines = lines_of(text, "across models")
    assert lines["attention q"] == ["100", "80.0", "25.0", "0.100", "0.000"]
    assert lines["MLP down"] == ["100", "0.0", "-", "-1.000", "-1.000"]
    assert lines["all"] == ["200", "40.0", "25.0", "-0.450", "-0.500"]
    assert "40.0 % of the elements are changed by two or more, 25.0 %" in text
    assert "two models: -0.450 of what is kept, -0.500 of what is dropped" in text


def test_parameters_and_layers_are_said():
    """A gradient shows as a range; rows and a choice of layers are mentioned."""
    text = printed(
        report(
            tensor(Q, vector("org/math", density=0.2), layer=0, granularity="row"),
            tensor(DOWN, vector("org/math", density=0.9), layer=1),
            models=("org/math",),
            layers=[0, 1],
        )
    )
    assert "weight 0.5, density 0.2..0.9, gamma 0.02, partly by row" in text
    assert "2 tensors of layers 0, 1 alone" in text


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_fits(columns, monkeypatch):
    """No line is too long, and no cell is cut short."""
    names = ("org/a-rather-long-name-of-some-model-a", "org/b")
    wide = {"lower": (1.2e-5, 3.4e-4, 1, 1), "upper": (5.6e-3, 7.8e-2, 1, 0)}
    text = printed(usual(*names, **wide), columns, monkeypatch)
    assert max(map(len, text.splitlines())) <= columns
    cut = "1e-5..3e-4" if columns < 100 else "1.2e-5..3.4e-4"
    assert text.count(cut) == 2 * 4
    sizes = re.search("role +elements +zero", text)
    assert bool(sizes) == (columns >= 100), "narrow tables leave the sizes out"
    lines = [line for line in text.splitlines() if line.startswith("attention q")]
    assert len(lines) == 3
    assert "…" not in "".join(lines)


def test_plain_when_piped(monkeypatch):
    """No colours, and 100 columns, where there is no terminal to ask."""
    monkeypatch.delenv("COLUMNS", raising=False)
    text = printed(usual())
    assert "\x1b" not in text
    assert 90 < max(map(len, text.splitlines())) <= 100
    assert text.rstrip().endswith("Nothing stands out.")
