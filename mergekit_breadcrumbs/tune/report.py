"""What a study found: the content of report.json, which table and picture show."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from mergekit_breadcrumbs.tune.scores import Score
from mergekit_breadcrumbs.tune.search import Search, Values
from mergekit_breadcrumbs.tune.trials import Trial

VERSION: Literal[1] = 1
"""Raised whenever a reader of report.json would have to change."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Contender(_Part):
    """A model that was scored: the base, an input, or a merge.

    `score` is the mean of its named `scores`, and `validation` that of its
    `validation_scores` on other questions. They are None where it was not scored;
    `error` then has the scorer's words. `trial` is that of a merge out of a study.
    """

    kind: Literal["base", "input", "start", "best", "rival"]
    name: str
    values: Values = {}
    trial: int | None = None
    scores: dict[str, Score] = {}
    score: Score | None = None
    validation_scores: dict[str, Score] = {}
    validation: Score | None = None
    error: str | None = None


class StudyRecord(_Part):
    """The trials of one method.

    `importance` is how much each parameter matters, and sums to 1; it is empty where
    the trials are too few to say.
    """

    merge_method: str
    searches: list[Search]
    trials: list[Trial]
    importance: dict[str, float] = {}


class Comparison(_Part):
    """Whether the best merge is better than another contender.

    `difference` is the best's score less the other's, and `margin` half of its 95 %
    interval, None where no errors are known.
    """

    other: str
    kind: Literal["start", "rival", "input"]
    on: Literal["search", "validation"]
    difference: float
    margin: float | None
    verdict: Literal["better", "worse", "within the noise", "unknown"]


class Report(_Part):
    """All that a study found.

    `budget` is the number of trials for each method. `notes` are sentences, such as
    where a range was cut. Scores are `relative` to those of the best input.
    """

    version: Literal[1] = VERSION
    config: str
    scorer: str
    validate_with: str | None = None
    relative: bool = False
    seed: int
    budget: int
    study: StudyRecord
    rivals: list[StudyRecord] = []
    contenders: list[Contender] = []
    comparisons: list[Comparison] = []
    notes: list[str] = []
