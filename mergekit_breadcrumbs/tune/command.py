"""Scores from a shell command."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from mergekit_breadcrumbs.tune.scores import (
    Candidate,
    Score,
    ScoringFailed,
    as_scores,
)
from mergekit_breadcrumbs.wording import shortened, visible

PLACE = "{model}"
"""What the folder of a candidate takes the place of."""
# Of a command and all that it starts, also in sessions of their own.
_MARK = "MERGEKIT_BREADCRUMBS_SCORING"
_GRACE = 5.0  # seconds for a process to end by itself when it is told to
_FLUSH = 1.0  # seconds for others than the shell to write what they have, as `tee`
_KEPT = 1 << 20  # bytes of what a command prints


@dataclass(frozen=True)
class CommandScorer:
    """A shell command whose last line of output is a number, or a JSON object of them.

    It runs in the working directory, with nothing to read on its standard input, and
    with processes of its own that all end when it does.

    Args:
        command: with `{model}` in the places of the folder, which is quoted.
        timeout: seconds for each run; None is no limit.
    """

    command: str
    timeout: float | None = None

    def __call__(self, candidate: Candidate) -> dict[str, Score]:
        """Score a candidate.

        Raises:
            ScoringFailed: if the command prints no score, fails, or takes too long.
        """
        command = self.command.replace(PLACE, _quoted(candidate.folder()))
        mark = uuid.uuid4().hex
        try:
            process = _start(command, mark)
        except OSError as error:
            raise ScoringFailed(f"it cannot be started: {error.strerror}") from error
        status = None
        try:
            output, errors = _Tail(process.stdout), _Tail(process.stderr)
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(self.timeout)
                output.wait(_FLUSH)
        finally:
            _end(process, mark)
        lines, last_error = output.lines(), (errors.lines() or [""])[-1]
        if status is None:
            raise _failure(f"timed out after {self.timeout:g} s", last_error)
        if status:
            said = last_error or (lines or [""])[-1]
            raise _failure(_how_it_ended(status), said)
        if not lines:
            raise _failure("it printed no score", last_error)
        return _read(lines[-1], last_error)


def _quoted(folder: Path) -> str:
    if os.name == "nt":
        return subprocess.list2cmdline([str(folder)])
    return shlex.quote(str(folder))


def _start(command: str, mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, _MARK: mark},
        start_new_session=True,
    )


class _Tail:
    """Reads all that comes out of a pipe, and keeps the end of it."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._pipe, self._kept = pipe, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until all is read, or for so long."""
        self._thread.join(seconds)

    def lines(self) -> list[str]:
        """Return the last lines that are not empty, at the end of the output."""
        # A process that got away may hold the pipe open; then this is not the end.
        self.wait(_GRACE)
        lines = [line.decode("utf-8", "replace") for line in self._kept.splitlines()]
        return [line.strip() for line in lines if line.strip()]

    def _read(self) -> None:
        if self._pipe is None:
            return
        with self._pipe:
            while part := self._pipe.read(_KEPT):
                self._kept = (self._kept + part)[-_KEPT:]


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """End a command and all that it has started and that still runs."""
    try:
        _stop(process, mark, kill=False)
    # Also where Ctrl-C interrupts the waiting.
    finally:
        _stop(process, mark, kill=True)


def _stop(process: subprocess.Popen[bytes], mark: str, *, kill: bool) -> None:
    deadline = time.monotonic() + _GRACE
    told: set[psutil.Process] = set()
    while left := set(_running(process.pid, mark)):
        for other in left - told:
            with suppress(psutil.Error):
                other.kill() if kill else other.terminate()
        told |= left
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
        process.poll()  # one that has ended is there until it is asked after


def _running(group: int, mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            same = hasattr(os, "getpgid") and os.getpgid(process.pid) == group
            if same or process.environ().get(_MARK) == mark:
                yield process


def _how_it_ended(status: int) -> str:
    # A shell counts from 128 those that killed what it ran.
    number = -status if status < 0 else status - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit status {status}"
    return f"killed by {name}{'; out of memory?' if name == 'SIGKILL' else ''}"


def _read(line: str, last_error: str) -> dict[str, Score]:
    try:
        result = json.loads(line) if line.startswith("{") else float(line)
    except (ValueError, RecursionError):
        what = f"its last line is no number and no JSON object: {_shown(line)}"
        raise _failure(what, last_error) from None
    try:
        return as_scores(result)
    except ScoringFailed as failure:
        raise _failure(str(failure), last_error) from None


def _failure(what: str, words: str) -> ScoringFailed:
    """Return what happened, with the command's own last words."""
    return ScoringFailed(f"{what}: {_shown(words)}" if words else what)


def _shown(text: str) -> str:
    return visible(shortened(text, 120))
