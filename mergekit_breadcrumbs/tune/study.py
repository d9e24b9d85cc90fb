"""Running the trials of a study, alone or beside other workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from mergekit_breadcrumbs.tune.lost import DEATHS, WORKER, Lost, host_of, this_worker
from mergekit_breadcrumbs.tune.sampling import SPREAD, SeededSampler
from mergekit_breadcrumbs.tune.scores import Score, ScoringFailed, mean
from mergekit_breadcrumbs.tune.search import Search, Values
from mergekit_breadcrumbs.tune.storage import quiet
from mergekit_breadcrumbs.tune.trials import (
    ERROR,
    SCORES,
    START,
    WITHDRAWN,
    Trial,
    attempts,
    finished,
    scores_text,
    summary,
)

Objective = Callable[[Values], dict[str, Score]]
ROW = 3
"""Trials that fail one after the other, and end the study."""
FATAL = 3
"""Workers that die of an attempt before it counts as failed."""
POLL = 1.0
"""Seconds between two looks at what others are at."""


class StudyEnded(RuntimeError):  # noqa: N818  # what happened, not what is wrong
    """The study was ended, because trial after trial failed."""


class _Withdrawn(Exception):  # noqa: N818  # nothing is wrong with it
    """A trial that was one too many."""


def run(
    study: optuna.Study,
    searches: Sequence[Search],
    objective: Objective,
    *,
    trials: int,
    seed: int,
    start: Values | None = None,
    on_trial: Callable[[Trial], None] | None = None,
    on_wait: Callable[[list[str]], None] | None = None,
    poll: float = POLL,
) -> None:
    """Take part in a study until so many of its trials are finished.

    Those of all workers, and of earlier runs, count together, scored or failed; each is
    done once. Where none is left to begin, it waits for the others' to finish, and does
    what a dead worker was at. Interrupted by whatever, an attempt is made again, with
    its values, by the next run or another worker; one of which three workers died
    counts as failed. With one worker, the same seed gives the same trials, interrupted
    or not.

    A dead worker is found by its process on the same host, and by its silence where the
    study is in a database. Of one on another host, which shared a folder, nothing is
    known: its trial counts as running until the command runs on that host again, and
    who waits for it waits. Ctrl-C ends that, and loses nothing.

    Args:
        study: as `open_study` gives it.
        searches: the space.
        objective: gives values their scores, by name; raises ScoringFailed if it can't.
        trials: at least 1.
        seed: at least 0.
        start: the values of the first trial, each within its range.
        on_trial: is called for each trial that finishes meanwhile, whoever did it.
        on_wait: is called, again and again while it waits, with the names of the hosts
            that are still at a trial.
        poll: seconds between two looks at what others are at.

    Raises:
        StudyEnded: if the last three finished trials failed, all in this run's time.
        ValueError: if a value of `start` is not within its range.
        Exception: whatever else the objective raises; the attempt is not lost.
    """
    study.sampler = SeededSampler(searches, seed)
    if start is not None:
        _put_first(study, searches, start)
    worker, lost = _Worker(study, searches, objective, trials), Lost(study)
    before = {trial.number for trial in finished(study)}
    seen = set(before)
    with quiet():
        while True:
            lost.recover()
            found = attempts(study)
            for trial in map(summary, found.finished):
                if trial.number not in seen:
                    seen.add(trial.number)
                    if on_trial is not None:
                        on_trial(trial)
            _end_if_failing(found.finished[-ROW:], before)
            if len(found.finished) >= trials:
                return
            if found.waiting or found.count < trials:
                worker.work()
                continue
            if on_wait is not None:
                on_wait(sorted({host_of(trial) for trial in found.running}))
            time.sleep(poll)


def _put_first(study: optuna.Study, searches: Sequence[Search], start: Values) -> None:
    """Queue the starting values, unless the study has begun."""
    for search in searches:
        value = start[search.name]
        if not search.low <= value <= search.high:
            raise ValueError(
                f"the config has {search.name} {value}, which is not within its range,"
                f" {search.low} to {search.high}"
            )
    if not study.get_trials(deepcopy=False):
        values = {search.name: start[search.name] for search in searches}
        study.enqueue_trial(values, user_attrs={START: True})


def _end_if_failing(last: Sequence[FrozenTrial], before: set[int]) -> None:
    failed = [trial.user_attrs.get(ERROR) for trial in last]
    new = before.isdisjoint(trial.number for trial in last)
    if new and len(last) == ROW and None not in failed:
        raise StudyEnded(f"{ROW} trials in a row failed, the last with: {failed[-1]}")


class _Worker:
    """Does one trial after the other, as Optuna hands them out."""

    def __init__(
        self,
        study: optuna.Study,
        searches: Sequence[Search],
        objective: Objective,
        trials: int,
    ) -> None:
        self.study, self.searches = study, searches
        self.objective, self.trials = objective, trials
        self.number: int | None = None
        self.scored = False

    def work(self) -> None:
        """Do one trial, or withdraw it if others have all that are wanted."""
        self.number, self.scored = None, False
        try:
            self.study.optimize(self, n_trials=1, catch=(ScoringFailed, _Withdrawn))
        except ValueError:
            # Optuna's: others thought this worker dead, and have the attempt now.
            if not self.scored:
                raise
        except BaseException:
            # Optuna leaves the trial as it is for all but Ctrl-C and plain exceptions.
            if self.number is not None:
                with suppress(ValueError, UpdateFinishedTrialError):
                    self.study.tell(self.number, state=TrialState.FAIL)
            raise

    def __call__(self, trial: optuna.Trial) -> float:
        """Score a trial, as Optuna wants it done."""
        self.number = trial.number
        trial.set_user_attr(WORKER, this_worker())
        # Two workers may both begin the last one. What is earlier stays.
        place = attempts(self.study).places.get(trial.number, self.trials)
        if place >= self.trials:
            trial.set_user_attr(WITHDRAWN, True)
            raise _Withdrawn
        values = {
            s.name: trial.suggest_float(s.name, s.low, s.high, log=s.log)
            for s in self.searches
        }
        # Samplers that draw at the same moment draw the same; both draw once more.
        if place < SPREAD and self._has_twin(trial.number):
            trial.set_user_attr(WITHDRAWN, True)
            raise _Withdrawn
        try:
            scores = self._scores(values, trial.user_attrs.get(DEATHS, 0))
        except ScoringFailed as error:
            self.scored = True
            trial.set_user_attr(ERROR, str(error))
            raise
        self.scored = True
        trial.set_user_attr(SCORES, scores_text(scores))
        return mean(scores.values()).value

    def _has_twin(self, number: int) -> bool:
        """Whether another worker is at values that a trial has drawn."""
        trials = self.study.get_trials(deepcopy=False)
        own = next(trial for trial in trials if trial.number == number)
        free = any(search.low < search.high for search in self.searches)
        # Optuna marks so what was in its queue.
        if "fixed_params" in own.system_attrs or not free:
            return False
        return any(
            other.params == own.params and WITHDRAWN not in other.user_attrs
            for other in trials
            if other.state == TrialState.RUNNING and other is not own
        )

    def _scores(self, values: Values, deaths: int) -> dict[str, Score]:
        if deaths >= FATAL:
            raise ScoringFailed(f"{deaths} workers died of it, one after the other")
        scores = self.objective(values)
        if not all(math.isfinite(score.value) for score in scores.values()):
            raise ScoringFailed(f"not all of its scores are finite: {scores}")
        return scores
