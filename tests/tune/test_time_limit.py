"""Interrupting what runs in this process."""

import signal
import threading
import time
from contextlib import suppress

import pytest
import torch

from mergekit_breadcrumbs.tune.time_limit import (
    TimedOut,
    require_time_limits,
    time_limit,
)


def sleep():
    time.sleep(60)


def compute():
    torch.set_num_threads(1)
    matrix = torch.ones(64, 64)
    while True:
        matrix = matrix @ matrix
        matrix /= matrix.max()


def wait():
    threading.Event().wait(60)


def swallow():
    while True:
        with suppress(Exception):
            time.sleep(60)


HANGS = {"sleep": sleep, "torch": compute, "lock": wait, "deaf": swallow}


@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
def test_hangs(hang):
    """What hangs is left in time, and nothing of the timer is left."""
    start, handler = time.monotonic(), signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimedOut), time_limit(0.2):
        hang()
    assert 0.2 <= time.monotonic() - start < 3
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.slow
def test_swallowed_once():
    """Code that swallows everything is interrupted again."""
    start = time.monotonic()

    def swallow_once():
        with suppress(BaseException):
            time.sleep(60)
        assert time.monotonic() - start < 3
        time.sleep(60)

    with pytest.raises(TimedOut), time_limit(0.2):
        swallow_once()
    assert 3 < time.monotonic() - start < 9


def test_in_time():
    """What ends in time is not disturbed, then or later."""
    with time_limit(0.2):
        result = 7
    time.sleep(0.3)
    assert result == 7
    with time_limit(None):
        time.sleep(0.01)


def test_many_at_the_edge():
    """A signal at the very end raises in the block or not at all."""
    for _ in range(300):
        try:
            with time_limit(1e-4):
                time.sleep(5e-5)
        except TimedOut:
            pass
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_another_timer():
    """A timer that was set before rings when it should."""
    rung = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.4)
        with time_limit(60):
            time.sleep(0.3)
        assert not rung
        while not rung and time.monotonic() - start < 5:
            time.sleep(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert 0.35 < rung[0] - start < 0.6


def test_another_thread():
    """Where it cannot work it says so, and what helps."""
    said = []

    def try_it():
        try:
            require_time_limits()
        except ValueError as error:
            said.append(str(error))

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert said == [
        "a time limit for a scorer in this process cannot be kept: it can only be"
        " interrupted in the main thread; score with a command, which can be ended"
        " from outside"
    ]


def test_another_system(monkeypatch):
    """So it does where the system has no timers."""
    monkeypatch.delattr(signal, "setitimer")
    with pytest.raises(ValueError, match="has no timers"), time_limit(1):
        pass
