"""Whether the best is better, in numbers and in words."""

import math

import pytest

from mergekit_breadcrumbs.tune.compare import comparisons, sentences
from mergekit_breadcrumbs.tune.report import Contender, Report, StudyRecord
from mergekit_breadcrumbs.tune.scores import Score
from mergekit_breadcrumbs.tune.search import Search
from mergekit_breadcrumbs.tune.trials import Trial


def row(kind, name, value=None, error=None, validation=None, trial=None):
    """Return a contender with its scores."""
    return Contender(
        kind=kind,
        name=name,
        trial=trial,
        score=None if value is None else Score(value, error),
        validation=None if validation is None else Score(validation, error),
    )


def text_of(*rows, validated=False):
    """Return what is said of contenders."""
    trial = Trial(0, {"lambda": 1.0}, 0.5, {}, None, 1.0, "complete")
    study = StudyRecord(
        merge_method="breadcrumbs", searches=[Search("lambda", 0, 2)], trials=[trial]
    )
    report = Report(
        config="c.yml",
        scorer="s",
        validate_with="v" if validated else None,
        seed=0,
        budget=1,
        study=study,
        contenders=list(rows),
        comparisons=comparisons(rows),
    )
    return " ".join(sentences(report))


@pytest.mark.parametrize(
    ("best", "other", "error", "verdict"),
    [
        (0.6, 0.5, 0.03, "better"),
        (0.6, 0.5, 0.04, "within the noise"),
        (0.5, 0.6, 0.03, "worse"),
        (0.5, 0.5, 0.01, "within the noise"),
        (0.9, 0.1, None, "unknown"),
        (0.9, 0.1, 0.0, "unknown"),
    ],
)
def test_verdict(best, other, error, verdict):
    """A difference counts where it is more than 1.96 of its standard errors."""
    [found] = comparisons(
        [row("start", "given", other, error), row("best", "best", best, error, trial=1)]
    )
    assert (found.other, found.on, found.verdict) == ("given", "search", verdict)
    assert math.isclose(found.difference, best - other)
    if error:
        assert math.isclose(found.margin, 1.96 * math.sqrt(2) * error)


def test_others():
    """The config as given, every rival and the best of the inputs are compared with."""
    rows = [
        row("base", "base", 0.9),
        row("input", "poor", 0.1),
        row("input", "rich", 0.4),
        row("input", "failed"),
        row("start", "config as given", 0.2, trial=0),
        row("best", "best", 0.5, trial=7),
        row("rival", "best ties", 0.3, trial=2),
    ]
    assert [c.other for c in comparisons(rows)] == [
        *("config as given", "best ties", "rich"),
    ]
    assert comparisons(rows[:5]) == []


def test_validation():
    """Where the best was scored on other questions, these alone decide."""
    rows = [
        row("input", "lucky", 0.9, 0.01, validation=0.1),
        row("input", "steady", 0.2, 0.01, validation=0.3),
        row("start", "config as given", 0.2, 0.01, validation=0.6),
        row("best", "best", 0.5, 0.01, validation=0.5),
    ]
    found = {c.other: (c.on, c.verdict) for c in comparisons(rows)}
    assert found == {
        "config as given": ("validation", "worse"),
        "steady": ("validation", "better"),
    }
    text = text_of(*rows, validated=True)
    assert "On other questions the best is worse than the config as" in text
    assert "-0.1 ± 0.028 (95 %)." in text
    assert "lucky" not in text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [row("start", "given", 0.5, 0.1), row("best", "best", 0.52, 0.1, trial=1)],
            [
                "The best cannot be told from the given: +0.02 ± 0.28 (95 %).",
                "partly lucky",
            ],
        ),
        (
            [row("start", "given", 0.5), row("best", "best", 0.52, trial=1)],
            [
                "The best scored higher than the given: +0.02.",
                "--repeats N runs it several",
            ],
        ),
        (
            [row("start", "given", 0.5), row("best", "best", 0.48, trial=1)],
            ["The best scored lower than the given: -0.02."],
        ),
        (
            [row("start", "given", 0.5, trial=0), row("best", "best", 0.5, trial=0)],
            ["No trial scored higher than the config as given."],
        ),
        ([row("base", "base", 0.5)], ["No trial got a score."]),
    ],
    ids=["noise", "no errors", "worse", "the start is the best", "no best"],
)
def test_sentences(rows, said):
    """The words say what the numbers allow, and no more."""
    text = text_of(*rows)
    assert all(part in text for part in said), text


def test_nothing_is_said_of_what_is_the_same():
    """The config as given is not compared with itself."""
    rows = [row("start", "given", 0.5, trial=0), row("best", "best", 0.5, trial=0)]
    assert comparisons(rows) == []
