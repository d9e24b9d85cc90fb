"""Workers that are processes, beside one another and one after the other."""

import os
import signal

import pytest
from support.tune_worker import (
    check_all_done,
    ended,
    log_of,
    start_worker,
    study_of,
    until,
)

from mergekit_breadcrumbs.tune.trials import attempts, finished


@pytest.mark.slow
def test_two_workers_share_a_journal(tmp_path):
    """Both do a part, none is done twice, and there is not one too many."""
    workers = [start_worker(tmp_path, trials=12, seconds=0.3) for _ in range(2)]
    for worker in workers:
        assert ended(worker) == (0, "")
    trials = finished(study_of(tmp_path))
    assert len(trials) == 12
    check_all_done(tmp_path, trials)
    assert {line["pid"] for line in log_of(tmp_path)} == {w.pid for w in workers}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_worker_is_followed(tmp_path, how):
    """What it was at is done by the next, with the same values, before all else."""
    worker = start_worker(tmp_path, trials=5, hangs=3)
    until(lambda: len(log_of(tmp_path)) == 5)
    os.kill(worker.pid, how)
    assert ended(worker)[0] != 0
    lost = log_of(tmp_path)[-1]["began"]
    assert ended(start_worker(tmp_path, trials=5)) == (0, "")
    assert log_of(tmp_path)[5]["began"] == lost
    trials = finished(study_of(tmp_path))
    assert len(trials) == 5
    check_all_done(tmp_path, trials, interrupted=[lost])


@pytest.mark.slow
def test_waiting_worker_takes_over(tmp_path):
    """One that has nothing left to begin does what the other dies of."""
    hanging = start_worker(tmp_path, trials=3, hangs=1)
    until(lambda: log_of(tmp_path))
    lost = log_of(tmp_path)[0]["began"]
    waiting = start_worker(tmp_path, trials=3)
    until(lambda: len(log_of(tmp_path)) == 5)
    assert len(attempts(study_of(tmp_path)).running) == 1
    assert waiting.poll() is None
    os.kill(hanging.pid, signal.SIGKILL)
    ended(hanging)
    assert ended(waiting) == (0, "")
    trials = finished(study_of(tmp_path))
    assert len(trials) == 3
    check_all_done(tmp_path, trials, interrupted=[lost])
