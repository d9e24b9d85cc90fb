"""A time limit for what runs in this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN = 5.0  # seconds until the next try, where something swallowed the first


class TimedOut(BaseException):
    """What is raised when time is up: no `except Exception` on the way stops it."""


def require_time_limits() -> None:
    """Check that `time_limit` works here.

    Raises:
        ValueError: if the system has no such timers, or this is not the main thread.
    """
    if not hasattr(signal, "setitimer"):
        missing = f"{os.name} has no timers that interrupt it"
    elif threading.current_thread() is not threading.main_thread():
        missing = "it can only be interrupted in the main thread"
    else:
        return
    raise ValueError(
        f"a time limit for a scorer in this process cannot be kept: {missing};"
        " score with a command, which can be ended from outside"
    )


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupt what is inside when its time is up.

    It is a timer of the system, whose signal raises an exception in the main thread at
    the next step of Python's: in a loop or in `time.sleep` at once, in one long call
    of a library when that returns. Another timer of this kind goes on afterwards.

    Args:
        seconds: more than 0; None is no limit.

    Raises:
        TimedOut: inside, every few seconds until it is left.
        ValueError: as `require_time_limits`.

    Example:
        >>> try:
        ...     with time_limit(0.01):
        ...         time.sleep(60)
        ... except TimedOut:
        ...     print("ended")
        ended
    """
    if seconds is None:
        yield
        return
    require_time_limits()
    running = True

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if running:
            raise TimedOut

    start, before, interval = time.monotonic(), 0.0, 0.0
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        try:
            before, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
            yield
        finally:
            running = False
    # A signal may come between the last step inside and the line above.
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if before:
            left = before - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), interval)
