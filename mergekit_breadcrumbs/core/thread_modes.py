"""What each thread has for itself and what changes results: denormals, gradients.

A thread keeps or flushes denormals, the numbers under the least normal one, as it has
been told to (`torch.set_flush_denormal`), or as the thread did that started it. So a
step that is divided among threads may treat its parts in different ways.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

UNDIVIDED = 1 << 15
"""Elements, up to which torch never divides a step among its threads."""

_LEAST_NORMAL = sys.float_info.min

_KNOWN = threading.local()  # `team`: how many threads torch uses here, and their modes

T = TypeVar("T")
Result = TypeVar("Result")


def flushes_denormals() -> bool:
    """Whether this thread takes denormals for zero.

    Example:
        >>> flushes_denormals()
        False
    """
    return _LEAST_NORMAL * 0.5 == 0.0


def as_here(function: Callable[[T], Result]) -> Callable[[T], Result]:
    """Have a function work in any thread as it would in this one."""
    flushes = flushes_denormals()

    def call(argument: T) -> Result:
        torch.set_flush_denormal(flushes)
        return function(argument)

    mode: Any = torch.enable_grad if torch.is_grad_enabled() else torch.no_grad
    if torch.is_inference_mode_enabled():
        mode = torch.inference_mode
    wrapped: Callable[[T], Result] = mode()(call)
    return wrapped


def divided_evenly() -> bool:
    """Whether the threads that torch divides a step among all treat denormals alike.

    Those beside the caller's never change, and are asked once.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return True
    team: tuple[int, set[bool]] = getattr(_KNOWN, "team", (0, set()))
    if team[0] != threads:
        team = _KNOWN.team = threads, _ask(threads)
    return team[1] == {flushes_denormals()}


def _ask(threads: int) -> set[bool]:
    """Return whether torch's threads flush denormals, all but the calling one."""
    bits = torch.zeros(threads, UNDIVIDED, dtype=torch.int32, device="cpu")
    bits[:, 0] = 1  # a thread takes a row, whose first number is the least denormal
    bits.view(torch.float32).mul_(1)
    return set((bits[1:, 0] == 0).tolist())
