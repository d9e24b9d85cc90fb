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
