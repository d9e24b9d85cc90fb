"""Workers that share a study in a real PostgreSQL server."""

import os
import signal

import pytest
from support.postgres import postgres_server, server_binaries
from support.tune_worker import (
    SEARCHES,
    check_all_done,
    ended,
    log_of,
    start_worker,
    study_of,
    until,
)
from support.tuning import make_bench

from mergekit_breadcrumbs.tune.report import Report
from mergekit_breadcrumbs.tune.storage import open_study
from mergekit_breadcrumbs.tune.trials import finished

BINARIES = server_binaries()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARIES is None, reason="no PostgreSQL server is installed"),
]


@pytest.fixture(scope="module")
def server():
    with postgres_server(BINARIES) as url:
        yield url


def test_a_worker_is_killed(tmp_path, server):
    """The other finds out by its silence, and finishes all trials, none twice.

    It takes itself for another host, so that it cannot look for the process.
    """
    settings = {"trials": 8, "storage": server, "seconds": 0.2}
    killed = start_worker(tmp_path, **settings, hangs=2, host="far away")
    until(lambda: len(log_of(tmp_path)) == 3)
    other = start_worker(tmp_path, **settings)
    until(lambda: len(log_of(tmp_path)) >= 6)
    os.kill(killed.pid, signal.SIGKILL)
    ended(killed)
    assert ended(other) == (0, "")
    log = log_of(tmp_path)
    assert {line["pid"] for line in log} == {killed.pid, other.pid}
    [lost] = [line["began"] for line in log[:3] if "began" in line][1:]
    trials = finished(study_of(tmp_path, server))
    assert len(trials) == 8
    check_all_done(tmp_path, trials, interrupted=[lost])


def test_no_such_database(tmp_path, server):
    """The error has the server's words, and no password."""
    url = server.replace("tune@", "tune:secret@").replace("/postgres", "/other")
    with pytest.raises(ValueError, match='database "other" does not exist') as error:
        open_study(SEARCHES, name="test", storage=url, out=tmp_path, identity={})
    assert "secret" not in str(error.value)
    assert "tune:***@127.0.0.1" in str(error.value)


def test_the_command(tmp_path, server):
    """Two shells, each with a folder of its own, share a study in the database."""
    bench = make_bench(tmp_path / "bench")
    options = ("--trials", 6, "--storage", server, "--name", "shared")
    workers = [bench.start(*options, out=out) for out in ("one", "two")]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    reports = [(bench.root / out / "report.json").read_text() for out in ("one", "two")]
    assert reports[0] == reports[1]
    trials = Report.model_validate_json(reports[0]).study.trials
    assert len({trial.score for trial in trials}) == 6
    scored = [entry["score"] for entry in bench.log()]
    assert all(scored.count(trial.score) == 1 for trial in trials)
    assert not (bench.root / "one" / "study.journal").exists()
