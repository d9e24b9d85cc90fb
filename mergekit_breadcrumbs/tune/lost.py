"""Trials whose worker is gone: found, and tried again."""

from __future__ import annotations

import copy
import socket
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
import psutil
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from mergekit_breadcrumbs.tune.trials import ERROR, attempts

WORKER = "worker"
"""Who is at a trial: an attribute of the trial."""
DEATHS = "deaths"
"""How many workers died of an attempt, maybe: an attribute of its last trial."""
UNSIGNED = 60.0
"""Seconds after which a trial that nobody has put his name to has no worker."""
_SLACK = 2.0  # seconds, as clocks are set right now and then


def this_worker() -> dict[str, Any]:
    """Return what tells this process from all others."""
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "pid": process.pid,
        "started": process.create_time(),
    }


@dataclass
class Lost:
    """Finds the attempts of a study that are at rest, but not at their end."""

    study: optuna.Study
    _unsigned: dict[int, float] = field(default_factory=dict)

    def recover(self) -> None:
        """Put them back in the queue.

        That is what was interrupted, and what processes of this host were at that are
        no more. In a database also what workers were at that gave no sign of life.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self.study)
        for trial in attempts(self.study).running:
            if self._is_abandoned(trial):
                # Another worker may be faster, or the trial's own be there after all.
                with suppress(ValueError, UpdateFinishedTrialError):
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    try_again(self.study, trial)
        for trial in attempts(self.study).interrupted:
            _queue(self.study, trial, trial.user_attrs.get(DEATHS, 0))

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        """Whether the process that is at a trial is surely gone."""
        worker = trial.user_attrs.get(WORKER)
        if worker is None:
            # Not by the trial's own clock, which may be another machine's.
            now = time.monotonic()
            return now - self._unsigned.setdefault(trial.number, now) > UNSIGNED
        if worker["host"] != socket.gethostname():
            return False
        try:
            started = psutil.Process(worker["pid"]).create_time()
        except psutil.NoSuchProcess:
            return True
        return bool(abs(started - worker["started"]) > _SLACK)


def try_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put the values of a trial whose worker died back in the queue.

    Not if it died in the moment between noting that the trial failed, and ending it.
    """
    if ERROR not in trial.user_attrs:
        _queue(study, trial, trial.user_attrs.get(DEATHS, 0) + 1)


def host_of(trial: FrozenTrial) -> str:
    """Return the name of the host where a trial is running."""
    host: str = trial.user_attrs.get(WORKER, {"host": "a host"})["host"]
    return host


def _queue(study: optuna.Study, trial: FrozenTrial, deaths: int) -> None:
    trial = copy.deepcopy(trial)  # the callback writes into it
    trial.user_attrs = {DEATHS: deaths}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback()(study, trial)
