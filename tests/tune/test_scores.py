"""What counts as a score, and the mean of several."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mergekit_breadcrumbs.tune.scores import (
    Repeated,
    Score,
    ScoringFailed,
    as_scores,
    mean,
)

NUMBERS = {
    "int": 3,
    "Fraction": Fraction(3),
    "float64": np.float64(3),
    "float32": np.float32(3),
    "int64": np.int64(3),
    "array": np.array(3),
    "tensor": torch.tensor(3),
    "bfloat16": torch.tensor(3, dtype=torch.bfloat16),
    "gradient": torch.tensor(3.0, requires_grad=True),
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_numbers(number):
    """A number of any kind is one, alone, by name, and with its error."""
    for result, expected in (
        (number, {"score": Score(3.0)}),
        ({"a": number}, {"a": Score(3.0)}),
        ((1, number), {"score": Score(1.0, 3.0)}),
        ({"a": {"value": number, "error": number}}, {"a": Score(3.0, 3.0)}),
    ):
        scores = as_scores(result)
        assert scores == expected
        assert {type(score.value) for score in scores.values()} == {float}


REFUSED = {
    "None": (None, "score must be a number; got None"),
    "text": ("0.5", "score must be a number; got '0.5'"),
    "bool": (True, "score must be a number; got True"),
    "bool of NumPy": (np.bool_(True), "score must be a number; got"),
    "complex": (1j, "score must be a number; got 1j"),
    "vector": (torch.ones(1), "score must be a number; got tensor([1.])"),
    "triple": ((1, 2, 3), "score must be a number; got (1, 2, 3)"),
    "list": ([0.5, 0.1], "score must be a number; got [0.5, 0.1]"),
    "nan": ({"a": math.nan}, "a must be a finite number; got nan"),
    "nan of torch": (torch.tensor(math.nan), "must be a finite number; got nan"),
    "huge": (10**999, "score must be a finite number; got inf"),
    "nan error": ({"a": (1, math.nan)}, "error of a must be a finite number; got nan"),
    "negative error": ((1, -0.5), "error of score must be at least 0; got -0.5"),
    "a third part": ({"value": 1, "n": {}}, "n must be a number; got {}"),
    "no names": ({}, "there is no score in {}"),
    "evil name": ({"\x1b[31m": None}, r"\x1b[31m must be a number; got None"),
}


@pytest.mark.parametrize(("result", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(result, said):
    """What is no finite number is named, and shown."""
    with pytest.raises(ScoringFailed) as raised:
        as_scores(result)
    assert said in str(raised.value)


def test_mean():
    """Values are averaged, independent errors add by their squares."""
    assert mean([Score(1.0, 3.0), Score(2.0, 4.0)]) == Score(1.5, 2.5)
    assert mean([Score(1.0, 0.5)]) == Score(1.0, 0.5)
    assert mean([Score(1.0, 0.5), Score(3.0)]) == Score(2.0)
    assert mean({"a": Score(0.1)}.values()) == Score(0.1)
    with pytest.raises(ValueError, match="no score to take the mean of"):
        mean([])


class Given:
    """Gives one result after another."""

    def __init__(self, *results):
        self.results = list(results)

    def __call__(self, candidate):
        assert candidate == "candidate"
        return as_scores(self.results.pop(0))


def test_repeated():
    """The error is that of a mean of so many draws, by the textbook's formula."""
    numbers = [0.1, 0.4, 0.3]
    given = Given(*({"a": number, "b": 1} for number in numbers))
    found = Repeated(given, 3)("candidate")
    assert found["b"] == Score(1.0, 0.0)
    assert found["a"].value == pytest.approx(np.mean(numbers))
    assert found["a"].error == pytest.approx(np.std(numbers, ddof=1) / np.sqrt(3))
    assert not given.results


def test_repeated_with_errors():
    """Of the runs' own error and that over runs the larger counts."""
    assert Repeated(Given((0.5, 0.1), (0.5, 0.3)), 2)("candidate") == {
        "score": Score(0.5, pytest.approx(0.2))
    }
    assert Repeated(Given((0.0, 0.1), (1.0, 0.1)), 2)("candidate") == {
        "score": Score(0.5, pytest.approx(0.5))
    }


def test_repeated_with_other_names():
    """Runs that score different things are no repetitions."""
    with pytest.raises(ScoringFailed, match="one run gave a, b, and the next a, c"):
        Repeated(Given({"a": 1, "b": 1}, {"a": 1, "c": 1}), 2)("candidate")
