"""What is printed of a study."""

import io

import pytest
from support.studied import studied

from mergekit_breadcrumbs.tune.report import Contender
from mergekit_breadcrumbs.tune.scores import Score
from mergekit_breadcrumbs.tune.table import print_report


def printed(report):
    """Return what is printed, as lines without blanks at their ends."""
    stream = io.StringIO()
    print_report(report, stream)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_everything():
    """Each contender has a line with its score and values, and sentences follow."""
    report = studied(3, rivals=["ties"], notes=["The range was cut."])
    lines = printed(report)
    best = report.contenders[4]
    table = {line[:15].strip(): line for line in lines[2:8]}
    assert list(table) == [
        "base",
        "math",
        "code",
        "config as given",
        "best",
        "best ties",
    ]
    assert f"{best.score.value:.4g} ± 0.0392" in table["best"]
    assert f"density {best.values['density']:.3g}" in table["best"]
    assert "The range was cut." in lines
    assert "What matters: lambda 33 %, density 33 %, gamma 33 %." in lines
    assert any(line.startswith("The best is better than math: +0.") for line in lines)
    assert "--validate SCORER scores it again, on other questions." in lines[-1]


@pytest.mark.parametrize("parameters", [1, 3, 9])
def test_narrow(parameters, monkeypatch):
    """In 80 columns no score is cut off, and values go on in the next line."""
    monkeypatch.setenv("COLUMNS", "80")
    report = studied(parameters, validate_with="other")
    for row in report.contenders:
        row.validation = Score(0.5, 0.01)
    lines = printed(report)
    table = lines[: lines.index("")]
    assert all(len(line) <= 80 for line in table)
    assert sum("0.5 ± 0.0196" in line for line in table) == len(report.contenders)
    values = " ".join(" ".join(table).split())
    last = report.study.searches[-1].name
    assert last.split()[-1][-10:] in values


def test_no_score():
    """A model without a score has a dash, and below stands why."""
    report = studied(1)
    report.contenders[1] = Contender(kind="input", name="math", error="no\x1b[1m [red]")
    lines = printed(report)
    row = next(line for line in lines if line.startswith("math"))
    assert row.split() == ["math", "-"]
    assert "math was not scored: no\\x1b[1m [red]" in lines


def test_relative():
    """It says so where scores are relative."""
    assert "relative score" in printed(studied(1, relative=True))[0]
    assert "relative" not in printed(studied(1))[0]
