"""What a score is, what is scored, and how often."""

from __future__ import annotations

import math
import numbers
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mergekit_breadcrumbs.wording import one_line, shortened, visible

UNNAMED = "score"
"""The name of a score that came without one."""
_PARTS = {"value", "error"}


@dataclass(frozen=True)
class Score:
    """A number, of which more is better, and its standard error where that is known."""

    value: float
    error: float | None = None


class ScoringFailed(Exception):  # noqa: N818  # what happened, not what is wrong
    """A candidate that got no score; its text is one line in the scorer's words."""


class Candidate(Protocol):
    """A model that is to be scored.

    It is a path, too: `os.fspath(candidate)` is its folder, which is then made.
    """

    def folder(self) -> Path:
        """Return its folder, which is made at the first call, and is gone later."""

    def load(self) -> tuple[Any, Any]:
        """Return the model in memory, and its tokenizer or None; nothing is written."""

    def close(self) -> None:
        """Let go of the model, and remove the folder."""

    def __fspath__(self) -> str:
        """Return `str(self.folder())`."""


class Scorer(Protocol):
    """What gives a candidate its scores, by name.

    Raises:
        ScoringFailed: if it cannot.
    """

    def __call__(self, candidate: Candidate) -> dict[str, Score]:
        """Score a candidate."""


@dataclass(frozen=True)
class Repeated:
    """A scorer that runs several times for a candidate, and takes the mean.

    The error is the standard error of that mean; where the scorer knows its own errors,
    and they are larger on average, it is their average.

    Args:
        scorer: to run.
        times: at least 2.
    """

    scorer: Scorer
    times: int

    def __call__(self, candidate: Candidate) -> dict[str, Score]:
        """Score a candidate.

        Raises:
            ScoringFailed: if a run fails, or gives other names than the first.
        """
        runs = [self.scorer(candidate) for _ in range(self.times)]
        names = runs[0].keys()
        for run in runs[1:]:
            if run.keys() != names:
                raise ScoringFailed(
                    f"one run gave {', '.join(names)}, and the next {', '.join(run)}"
                )
        return {name: _together([run[name] for run in runs]) for name in names}


def mean(scores: Iterable[Score]) -> Score:
    """Return the mean of independent scores.

    It has an error where all of them have one.

    Raises:
        ValueError: if there is none.

    Example:
        >>> mean([Score(0.25, 0.03), Score(0.75, 0.04)])
        Score(value=0.5, error=0.025)
        >>> mean([Score(1.0), Score(2.0, 0.1)])
        Score(value=1.5, error=None)
    """
    scores = list(scores)
    if not scores:
        raise ValueError("there is no score to take the mean of")
    errors = [score.error for score in scores if score.error is not None]
    known = len(errors) == len(scores)
    return Score(
        statistics.fmean(score.value for score in scores),
        math.hypot(*errors) / len(scores) if known else None,
    )


def as_scores(result: object) -> dict[str, Score]:
    """Return what a scorer gave, a number or several by their names, as scores.

    In the place of a number there may be a pair of it and its standard error, also as
    `{"value": ..., "error": ...}`; the error may be None. Numbers are those of Python,
    of NumPy, and tensors without dimensions.

    Raises:
        ScoringFailed: if it is none of these, or a number is not finite.

    Example:
        >>> as_scores(0.5)
        {'score': Score(value=0.5, error=None)}
        >>> as_scores({"gsm8k": 0.4, "mbpp": {"value": 0.3, "error": 0.01}})["mbpp"]
        Score(value=0.3, error=0.01)
    """
    if not isinstance(result, Mapping) or _is_one(result):
        # A number and its error, not two scores of these names.
        return {UNNAMED: _score(result, UNNAMED)}
    if not result:
        raise ScoringFailed("there is no score in {}")
    return {_name(name): _score(value, _name(name)) for name, value in result.items()}


def _name(name: object) -> str:
    return visible(shortened(str(name), 60))


def _is_one(result: Mapping[Any, Any]) -> bool:
    return "value" in result and result.keys() <= _PARTS


def _score(value: Any, name: str) -> Score:
    error: Any = None
    if isinstance(value, Mapping) and _is_one(value):
        value, error = value["value"], value.get("error")
    elif isinstance(value, tuple) and len(value) == 2:
        value, error = value
    number = _number(value, name)
    if error is None:
        return Score(number)
    spread = _number(error, f"error of {name}")
    if spread < 0:
        raise ScoringFailed(f"error of {name} must be at least 0; got {spread:g}")
    return Score(number, spread)


def _number(value: object, name: str) -> float:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ScoringFailed(f"{name} must be a number; got {visible(one_line(value))}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ScoringFailed(f"{name} must be a finite number; got {number}")
    return number


def _together(scores: list[Score]) -> Score:
    values = [score.value for score in scores]
    error = statistics.stdev(values) / math.sqrt(len(values))
    own = [score.error for score in scores if score.error is not None]
    if len(own) == len(scores):
        error = max(error, statistics.fmean(own))
    return Score(statistics.fmean(values), error)
