"""Scores of what is no trial: the base, the inputs, the config as it was given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import optuna

from mergekit_breadcrumbs.tune.merging import MergeFailed
from mergekit_breadcrumbs.tune.scores import Candidate, Score, Scorer, ScoringFailed
from mergekit_breadcrumbs.tune.study import ROW, StudyEnded
from mergekit_breadcrumbs.tune.trials import scores_from, scores_text


class Told(Protocol):
    """Is told of each model that got a score, or why it got none."""

    def __call__(self, name: str, scores: Mapping[str, Score], error: str) -> None:
        """Tell of one."""


@dataclass
class Beside:
    """Scores models once each, and keeps the scores with a study.

    The next run, and other workers, take them from there. What failed is tried again.

    Args:
        study: that keeps them.
        scorer: to score with.
        by: the scorer as the user writes it.
        told: is told of each model.
    """

    study: optuna.Study
    scorer: Scorer
    by: str
    told: Told
    _failed: int = 0

    def score(
        self, name: str, what: str, make: Callable[[], Candidate]
    ) -> tuple[dict[str, Score], str | None]:
        """Return the scores of a model by their names, and None; or none, and why.

        Args:
            name: to show.
            what: tells it from all others: the name of a model, or a whole config.
            make: returns it.

        Raises:
            StudyEnded: if this is the third in a row that failed.
        """
        key = hashlib.sha256(f"{self.by}\n{what}".encode()).hexdigest()[:16]
        known = self._known(key)
        if known is None:
            try:
                scores = scored(self.scorer, make)
            except ScoringFailed as error:
                self._count(name, str(error))
                return {}, str(error)
            # Another worker may have been faster; all go by the same scores.
            known = self._known(key)
            if known is None:
                content = {"of": name, "by": self.by, "scores": scores_text(scores)}
                self.study.set_user_attr(key, content)
                known = scores
        self._failed = 0
        self.told(name, known, "")
        return known, None

    def _known(self, key: str) -> dict[str, Score] | None:
        content: dict[str, Any] | None = self.study.user_attrs.get(key)
        return None if content is None else scores_from(content["scores"])

    def _count(self, name: str, error: str) -> None:
        self.told(name, {}, error)
        self._failed += 1
        if self._failed == ROW:
            raise StudyEnded(f"{ROW} models in a row got no score, the last: {error}")


def scored(scorer: Scorer, make: Callable[[], Candidate]) -> dict[str, Score]:
    """Make a model, score it, and let it go.

    Raises:
        ScoringFailed: if it cannot be made or scored.
    """
    try:
        candidate = make()
        try:
            return scorer(candidate)
        finally:
            candidate.close()
    except MergeFailed as error:
        raise ScoringFailed(f"the merge failed: {error}") from error


def relative_to(inputs: Iterable[Mapping[str, Score]]) -> dict[str, float]:
    """Return the highest score that an input has of each name.

    Args:
        inputs: the scores of each.

    Raises:
        ValueError: if one of them is not above 0, or no input was scored.

    Example:
        >>> one, two = {"a": Score(0.5), "b": Score(2.0)}, {"a": Score(0.25)}
        >>> relative_to([one, two])
        {'a': 0.5, 'b': 2.0}
    """
    highest: dict[str, float] = {}
    for scores in inputs:
        for name, score in scores.items():
            highest[name] = max(score.value, highest.get(name, score.value))
    if not highest:
        raise ValueError("no input got a score, which others could be relative to")
    for name, value in highest.items():
        if not value > 0:
            raise ValueError(
                f"scores cannot be relative to the best input's own of {name}, which"
                f" is {value:g}: it must be more than 0"
            )
    return highest


def divided(
    scores: Mapping[str, Score], by: Mapping[str, float] | None
) -> dict[str, Score]:
    """Return scores relative to others; as they are without any.

    Raises:
        ScoringFailed: if there is nothing to divide one by.

    Example:
        >>> divided({"a": Score(0.25, 0.01)}, {"a": 0.5})
        {'a': Score(value=0.5, error=0.02)}
    """
    if by is None:
        return dict(scores)
    missing = [name for name in scores if name not in by]
    if missing:
        raise ScoringFailed(f"no input has a score of the name {missing[0]}")
    return {
        name: Score(
            score.value / by[name],
            None if score.error is None else score.error / by[name],
        )
        for name, score in scores.items()
    }
