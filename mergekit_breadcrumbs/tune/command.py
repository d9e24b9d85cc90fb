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
        output, errors = _Tail(process.stdout), _Tail(process.stderr)
        status, said = None, []
        try:
            status = process.wait(self.timeout)
            output.wait(_FLUSH)
        except subprocess.TimeoutExpired:
            said = errors.lines()  # before it is told to end, which it may comment on
        finally:
            _end(process, mark)
            # One that got away may hold them open.
            output.wait(_GRACE)
            errors.wait(_GRACE)
        if status is None:
            raise _failure(f"timed out after {self.timeout:g} s", said)
        lines = output.lines()
        said = [line for line in errors.lines() if not _is_of_the_shell(line)]
        if status:
            raise _failure(_how_it_ended(status), [*lines[-1:], *said])
        if not lines:
            raise _failure("it printed no score", said)
        return _read(lines[-1], said)


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
        """Return the lines at the end of what was read that are not empty."""
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
        _stop(process.pid, mark, kill=False)
    # Also where Ctrl-C interrupts the waiting.
    finally:
        _stop(process.pid, mark, kill=True)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)


def _stop(group: int, mark: str, *, kill: bool) -> None:
    deadline = time.monotonic() + _GRACE
    seen: set[psutil.Process] = set()
    while left := set(_running(group, mark)):
        before = {process.pid for process in seen}
        for process in left - seen:
            with suppress(psutil.Error):
                if kill:
                    process.kill()
                # What one that was told to end starts after that is to tidy up.
                elif process.ppid() not in before:
                    process.terminate()
        seen |= left
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)


def _running(group: int, mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            same = hasattr(os, "getpgid") and os.getpgid(process.pid) == group
            # One that has ended is there until its parent asks after it.
            over = process.status() == psutil.STATUS_ZOMBIE
            if not over and (same or process.environ().get(_MARK) == mark):
                yield process


def _is_of_the_shell(line: str) -> bool:
    """Whether a line is the shell's word for a signal: it hides those of the killed."""
    return line.removesuffix(" (core dumped)") in map(signal.strsignal, signal.Signals)


def _how_it_ended(status: int) -> str:
    # A shell counts from 128 those that killed what it ran.
    number = -status if status < 0 else status - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit status {status}"
    return f"killed by {name}{'; out of memory?' if name == 'SIGKILL' else ''}"


def _read(line: str, said: list[str]) -> dict[str, Score]:
    try:
        result = json.loads(line) if line.startswith("{") else float(line)
    except (ValueError, RecursionError):
        what = f"its last line is no number and no JSON object: {_shown(line)}"
        raise _failure(what, said) from None
    try:
        return as_scores(result)
    except ScoringFailed as failure:
        raise _failure(str(failure), said) from None


def _failure(what: str, said: list[str]) -> ScoringFailed:
    """Return what happened, with the command's own last words."""
    return ScoringFailed(f"{what}: {_shown(said[-1])}" if said else what)


def _shown(text: str) -> str:
    return visible(shortened(text, 120))
