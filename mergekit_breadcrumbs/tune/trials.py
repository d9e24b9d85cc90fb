"""What the trials of a study are: which count, which are finished, which is best.

Optuna numbers its trials in the order in which they are made. A trial that was
interrupted stays as it is, and another one with its values is made in its place; these
two are one attempt. So is a trial whose twin another worker made at the same moment.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from mergekit_breadcrumbs.tune.scores import Score
from mergekit_breadcrumbs.tune.search import Values

ERROR = "error"
"""Why a trial failed, in the scorer's own words: an attribute of the trial."""
SCORES = "scores"
"""The named scores of a trial, in JSON: an attribute of the trial."""
START = "start"
"""Marks the first trial, of the config as it was given."""
WITHDRAWN = "withdrawn"
"""Marks a trial that was not to be: it has no values, and is no attempt."""
ENOUGH = 10
"""Complete trials that it takes to say which parameter matters."""
TOP = 0.2
"""The fraction of the trials that are the good ones, where importance is asked for."""


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    `number` is Optuna's own, and may leave some out. `values` are by the names of what
    is searched; `score` is the mean of `scores`, or None where there is an `error`.
    """

    number: int
    values: Values
    score: float | None
    scores: dict[str, Score]
    error: str | None
    seconds: float
    state: Literal["complete", "failed"]


@dataclass
class Attempts:
    """All trials of a study, sorted by what is to be done with them.

    `places` has, by the trial's number, how many attempts began before its own; `count`
    is how many there are. Of what is `interrupted` nobody has made a second trial yet.
    """

    finished: list[FrozenTrial] = field(default_factory=list)
    running: list[FrozenTrial] = field(default_factory=list)
    waiting: list[FrozenTrial] = field(default_factory=list)
    interrupted: list[FrozenTrial] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)
    count: int = 0


def attempts(study: optuna.Study) -> Attempts:
    """Sort the trials of a study."""
    trials = study.get_trials(deepcopy=False)
    found, claimed = Attempts(), set()
    again = {history[-1] for trial in trials if (history := _history(trial))}
    for trial in sorted(trials, key=lambda trial: trial.number):
        history = _history(trial)
        # Two workers may make the same attempt, where neither knows of the other.
        claim = history[-1] if history else _first(trial)
        if WITHDRAWN in trial.user_attrs or claim in claimed:
            continue
        claimed.add(claim)
        if history and history[-1] in found.places:
            found.places[trial.number] = found.places[history[-1]]
        else:
            found.places[trial.number] = found.count
            found.count += 1
        if trial.state == TrialState.RUNNING:
            found.running.append(trial)
        elif trial.state == TrialState.WAITING:
            found.waiting.append(trial)
        elif trial.state == TrialState.COMPLETE or ERROR in trial.user_attrs:
            found.finished.append(trial)
        elif trial.number not in again:
            found.interrupted.append(trial)
    return found


def _history(trial: FrozenTrial) -> list[int]:
    """Return the numbers of the trials in whose place this one is."""
    # As Optuna's callback for stale trials writes it; its reader is experimental.
    history: list[int] = trial.system_attrs.get("retry_history", [])
    return history


def _first(trial: FrozenTrial) -> str:
    return START if START in trial.user_attrs else f"new {trial.number}"


def finished(study: optuna.Study) -> list[Trial]:
    """Return the trials that got a score, or failed to, in order.

    Those that are running, and those that were interrupted, are not among them.
    """
    return [summary(trial) for trial in attempts(study).finished]


def summary(trial: FrozenTrial) -> Trial:
    """Return what there is to know of one finished trial."""
    complete = trial.state == TrialState.COMPLETE
    duration = trial.duration
    return Trial(
        number=trial.number,
        values=dict(trial.params),
        score=trial.value if complete else None,
        scores=scores_from(trial.user_attrs.get(SCORES, "{}")),
        error=None if complete else trial.user_attrs[ERROR],
        seconds=duration.total_seconds() if duration is not None else 0.0,
        state="complete" if complete else "failed",
    )


def scores_text(scores: dict[str, Score]) -> str:
    """Return named scores as JSON.

    Example:
        >>> scores_text({"gsm8k": Score(0.5, 0.1)})
        '{"gsm8k": {"value": 0.5, "error": 0.1}}'
    """
    return json.dumps({k: dataclasses.asdict(score) for k, score in scores.items()})


def scores_from(text: str) -> dict[str, Score]:
    """Return named scores from JSON.

    Example:
        >>> scores_from('{"gsm8k": {"value": 0.5, "error": 0.1}}')
        {'gsm8k': Score(value=0.5, error=0.1)}
    """
    return {name: Score(**score) for name, score in json.loads(text).items()}


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the highest score, the earlier of equals; None of none.

    Example:
        >>> trial = Trial(0, {"density": 0.1}, 0.5, {}, None, 1.0, "complete")
        >>> later = dataclasses.replace(trial, number=1)
        >>> failed = dataclasses.replace(trial, score=None, error="no", state="failed")
        >>> best([failed, trial, later]).number
        0
    """
    scored = [(trial.score, -trial.number, trial) for trial in trials]
    known = [(score, n, trial) for score, n, trial in scored if score is not None]
    return max(known, key=lambda entry: entry[:2])[2] if known else None


def importance(study: optuna.Study) -> dict[str, float]:
    """Return how much each parameter matters for a good score; the sum is 1.

    Optuna's PED-ANOVA, which asks how unevenly the best fifth of the trials lie in the
    range of a parameter. Empty where fewer than `ENOUGH` trials are complete.
    """
    complete = [t for t in study.get_trials(deepcopy=False) if t.value is not None]
    if len(complete) < ENOUGH:
        return {}
    evaluator = PedAnovaImportanceEvaluator(
        target_quantile=TOP, evaluate_on_local=False
    )
    return get_param_importances(study, evaluator=evaluator)
