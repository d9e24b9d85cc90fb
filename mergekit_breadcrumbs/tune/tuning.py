"""One run of a study: what is scored, in which order, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import optuna

from mergekit_breadcrumbs.measure.model_names import short_names
from mergekit_breadcrumbs.tune.beside import Beside, divided, relative_to, scored
from mergekit_breadcrumbs.tune.compare import comparisons
from mergekit_breadcrumbs.tune.merging import MergedCandidate, Merger
from mergekit_breadcrumbs.tune.prepare import Plan, Request, Tuned
from mergekit_breadcrumbs.tune.progress import Display
from mergekit_breadcrumbs.tune.report import Contender, Report, StudyRecord
from mergekit_breadcrumbs.tune.results import write_trials
from mergekit_breadcrumbs.tune.scores import Score, Scorer, ScoringFailed, mean
from mergekit_breadcrumbs.tune.search import Values
from mergekit_breadcrumbs.tune.space import inputs_of
from mergekit_breadcrumbs.tune.study import run
from mergekit_breadcrumbs.tune.trials import Trial, best, finished, importance
from mergekit_breadcrumbs.tune.values import with_values

GIVEN = "config as given"


class _Entrant(NamedTuple):
    """A row of the table, and how to get its model."""

    row: Contender
    what: str
    make: Callable[[], MergedCandidate]


class Tuning:
    """One run of a study, and of those of its rivals.

    Args:
        request: of the user.
        plan: for it.
        studies: of the user's config, and of each rival in the plan's order.
        merger: entered.
        display: entered.
    """

    def __init__(
        self,
        request: Request,
        plan: Plan,
        studies: list[optuna.Study],
        merger: Merger,
        display: Display,
    ) -> None:
        self._request, self._plan = request, plan
        self._merger, self._display = merger, display
        tuned = [plan.own, *plan.rivals]
        self._methods = list(zip(tuned, studies, strict=True))
        self._models = list(self._given())
        self._highest: dict[str, float] | None = None

    def score_models(self, scorer: Scorer) -> None:
        """Score the base, the inputs, and the config as given if that is no trial.

        Raises:
            StudyEnded: if three in a row got no score.
            ValueError: if scores are to be relative, and cannot be.
        """
        found = self._scored(scorer, self._request.score, self._models)
        self._highest = self._highest_of(self._models, found)
        for (row, *_), result in zip(self._models, found, strict=True):
            row.scores, row.error = _relative(*result, self._highest)
            row.score = mean(row.scores.values()) if row.scores else None

    def search(self, scorer: Scorer) -> None:
        """Do the trials of every method.

        Raises:
            StudyEnded: if three in a row got no score.
        """
        for tuned, study in self._methods:
            self._display.search(tuned.method, self._request.trials, finished(study))
            try:
                run(
                    study,
                    tuned.space.searches,
                    partial(self._objective, scorer, tuned),
                    trials=self._request.trials,
                    seed=self._request.seed,
                    start=tuned.start,
                    on_trial=self._note,
                    on_wait=self._display.wait,
                )
            finally:
                self._display.finish()

    def report(self, validator: Scorer | None) -> Report:
        """Return what was found, after the contenders are validated.

        Raises:
            StudyEnded: if three in a row got no score.
            ValueError: if scores are to be relative, and cannot be.
        """
        request = self._request
        self._write_trials()  # others may have done them all
        entrants = [*self._models, *self._merges()]
        if validator is not None:
            self._validate(entrants, validator)
        records = [
            StudyRecord(
                merge_method=tuned.method,
                searches=list(tuned.space.searches),
                trials=finished(study),
                importance=importance(study),
            )
            for tuned, study in self._methods
        ]
        rows = [entrant.row for entrant in entrants]
        return Report(
            config=str(request.config),
            scorer=request.score,
            validate_with=request.validate_with,
            relative=request.relative,
            seed=request.seed,
            budget=request.trials,
            study=records[0],
            rivals=records[1:],
            contenders=rows,
            comparisons=comparisons(rows),
            notes=self._plan.notes,
        )

    def _given(self) -> Iterator[_Entrant]:
        """Yield what there is without a search."""
        plan = self._plan
        like = plan.config
        if like.base_model is not None:
            base = str(like.base_model)
            row = Contender(kind="base", name="base")
            yield _Entrant(row, base, lambda: self._merger.model(base, like))
        for name, short in short_names(inputs_of(plan.own.data)).items():
            make = partial(self._merger.model, name, like)
            yield _Entrant(Contender(kind="input", name=short), name, make)
        if plan.own.start is None and plan.mergeable:
            yield self._merge(Contender(kind="start", name=GIVEN), plan.own.data)

    def _merges(self) -> Iterator[_Entrant]:
        """Yield the config as given, and the best of each method."""
        for tuned, study in self._methods:
            own, trials = tuned is self._plan.own, finished(study)
            given = next((t for t in trials if t.values == tuned.start), None)
            if own and given is not None:
                yield self._merge(_row("start", GIVEN, given), tuned)
            found = best(trials)
            if found is not None:
                name = "best" if own else f"best {tuned.method}"
                yield self._merge(_row("best" if own else "rival", name, found), tuned)

    def _merge(self, row: Contender, of: Tuned | dict[str, Any]) -> _Entrant:
        if isinstance(of, Tuned):
            of = with_values(of.data, of.space.settings(row.values))
        what = json.dumps(of, sort_keys=True, default=str)
        return _Entrant(row, what, partial(self._merger.candidate, of))

    def _scored(
        self, scorer: Scorer, by: str, entrants: list[_Entrant]
    ) -> list[tuple[dict[str, Score], str | None]]:
        """Return the scores of each model, and why it has none."""
        _, study = self._methods[0]
        beside = Beside(study, scorer, by, self._display.scored)
        return [beside.score(row.name, what, make) for row, what, make in entrants]

    def _highest_of(
        self,
        entrants: list[_Entrant],
        found: list[tuple[dict[str, Score], str | None]],
    ) -> dict[str, float] | None:
        if not self._request.relative:
            return None
        pairs = zip(entrants, found, strict=True)
        return relative_to(s for (row, *_), (s, _) in pairs if row.kind == "input")

    def _validate(self, entrants: list[_Entrant], validator: Scorer) -> None:
        """Score the contenders on other questions."""
        self._display.say("Scoring on other questions, those of --validate:")
        by = f"--validate {self._request.validate_with}"
        known = [entrant for entrant in entrants if entrant.row.error is None]
        found = self._scored(validator, by, known)
        highest = self._highest_of(known, found)
        for (row, *_), result in zip(known, found, strict=True):
            row.validation_scores, row.error = _relative(*result, highest)
            if row.validation_scores:
                row.validation = mean(row.validation_scores.values())

    def _objective(
        self, scorer: Scorer, tuned: Tuned, values: Values
    ) -> dict[str, Score]:
        self._display.begin()
        config = with_values(tuned.data, tuned.space.settings(values))
        found = scored(scorer, partial(self._merger.candidate, config))
        return divided(found, self._highest)

    def _note(self, trial: Trial) -> None:
        """Keep a trial that is finished in the files, too."""
        self._display.trial(trial)
        self._write_trials()

    def _write_trials(self) -> None:
        records = [(tuned, finished(study)) for tuned, study in self._methods]
        write_trials(self._request, self._plan, records)


def _relative(
    scores: dict[str, Score], error: str | None, highest: dict[str, float] | None
) -> tuple[dict[str, Score], str | None]:
    """Return scores as they are to be shown, and why there are none."""
    try:
        return divided(scores, highest), error
    except ScoringFailed as failure:
        return {}, str(failure)


def _row(kind: Any, name: str, trial: Trial) -> Contender:
    return Contender(
        kind=kind,
        name=name,
        values=trial.values,
        trial=trial.number,
        scores=trial.scores,
        score=mean(trial.scores.values()) if trial.scores else None,
        error=trial.error,
    )
