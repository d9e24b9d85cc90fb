"""Workers that are processes, beside one another and one after the other."""

import os
import signal

import pytest
from support.tune_worker import SEARCHES, ended, log_of, start_worker, until

from mergekit_breadcrumbs.tune.storage import open_study
from mergekit_breadcrumbs.tune.trials import attempts, finished

IDENTITY = {"config": "the same"}


def study_of(folder, storage=None):
    return open_study(
        SEARCHES, name="test", storage=storage, out=folder, identity=IDENTITY
    )


def check_all_done(folder, count, storage=None, interrupted=()):
    """Every attempt was scored once, and began once, but for what was interrupted."""
    trials = finished(study_of(folder, storage))
    assert len(trials) == count
    scored = [line["scored"] for line in log_of(folder) if "scored" in line]
    began = [line["began"] for line in log_of(folder) if "began" in line]

    def in_order(all_values):
        return sorted(all_values, key=lambda values: values["density"])

    assert in_order(scored) == in_order(trial.values for trial in trials)
    assert in_order(began) == in_order([*scored, *interrupted])
    assert len({values["density"] for values in scored}) == count


@pytest.mark.slow
def test_two_workers_share_a_journal(tmp_path):
    """Both do a part, none is done twice, and there is not one too many."""
    workers = [start_worker(tmp_path, trials=12, seconds=0.3) for _ in range(2)]
    for worker in workers:
        assert ended(worker) == (0, "")
    check_all_done(tmp_path, 12)
    assert {line["pid"] for line in log_of(tmp_path)} == {w.pid for w in workers}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_worker_is_followed(tmp_path, how):
    """What it was at is done by the next, with the same values, before anything else."""
    worker = start_worker(tmp_path, trials=5, hangs=3)
    until(lambda: len(log_of(tmp_path)) == 5)
    os.kill(worker.pid, how)
    assert ended(worker)[0] != 0
    lost = log_of(tmp_path)[-1]["began"]
    assert ended(start_worker(tmp_path, trials=5)) == (0, "")
    assert log_of(tmp_path)[5]["began"] == lost
    check_all_done(tmp_path, 5, interrupted=[lost])


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
    check_all_done(tmp_path, 3, interrupted=[lost])
