"""Threads that take turns at a tensor's chunks, and memory for one chunk on each.

torch by itself divides every single step among its threads and waits for the slowest
of them, hundreds of times in one tensor. Here a thread takes a chunk through all of its
steps, while the chunk is in its cache, and nobody waits until the tensor is done.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from mergekit_breadcrumbs.core.thread_modes import UNDIVIDED, as_here, divided_evenly
from mergekit_breadcrumbs.core.threads import is_ours, pool_of, shared

CHUNK = {
    "count": 1 << 20,
    "merge": 1 << 20,
    "norm": 1 << 17,
    "stored": 1 << 20,
    "accelerator": 1 << 24,
}
"""Elements worked on at a time: what stays in a CPU's cache, or what fills a GPU.

Of those that merge what is "stored", only a few are there.
"""

SHORT_SLICE = {"cpu": 1 << 17, "accelerator": 1 << 25}
"""Slices of up to this many elements are cut as short ones, which is faster."""

_MOST_THREADS = 8  # each takes memory, and Python can hardly keep more of them busy
FEW = {"long": 1 << 20, "short": 1 << 18}
"""Elements, in long or short slices; so few are merged faster without threads."""

_FULL_CHUNKS = 2  # with more threads than this, chunks shrink: memory does not grow
_FULL_BUFFERS = 3  # and likewise with more buffers than this for each chunk

T = TypeVar("T")
Result = TypeVar("Result")


def are_few(elements: int) -> bool:
    """Whether all task vectors of a weight, of so many elements, are merged at once.

    Example:
        >>> are_few(4096 * 3), are_few(1 << 20)
        (True, False)
    """
    return elements <= SHORT_SLICE["cpu"]


class Workspace:
    """What it takes to work on one tensor.

    Args:
        device: where the tensor is; only a CPU gets threads.
        elements: how many elements the tensor has; one of few gets no threads.
        length: how many elements of it form a slice; all, where nothing is said.

    Example:
        >>> workspace = Workspace(torch.device("cpu"), 10)
        >>> list(workspace.map(lambda part: part[1] - part[0], split(10, 4)))
        [4, 4, 2]
    """

    def __init__(
        self, device: torch.device, elements: int, length: int | None = None
    ) -> None:
        self._device = device
        # Memory on a GPU is too scarce to be kept.
        self._memory = _KEPT if device.type == "cpu" else threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self._threads = 1
        short = self.is_short(elements if length is None else length)
        few = elements <= FEW["short" if short else "long"]
        alike = elements <= UNDIVIDED or (few and divided_evenly())
        if device.type == "cpu" and not alike:
            self._threads = min(torch.get_num_threads(), _MOST_THREADS)
        if self._threads > 1:
            self._pool = pool_of(self._threads)

    @property
    def threads(self) -> int:
        """How many threads share the work."""
        return self._threads

    @property
    def on_cpu(self) -> bool:
        """Whether the work is done where this is running, so that nobody waits."""
        return self._device.type == "cpu"

    def is_short(self, length: int) -> bool:
        """Whether slices of `length` elements are cut many at a time (`short_slices`).

        Example:
            >>> workspace = Workspace(torch.device("cpu"), 1 << 20)
            >>> workspace.is_short(4096), workspace.is_short(1 << 20)
            (True, False)
        """
        return length <= SHORT_SLICE["cpu" if self.on_cpu else "accelerator"]

    def map(
        self, function: Callable[[T], Result], parts: Iterable[T]
    ) -> Iterator[Result]:
        """Apply a function to all parts and yield what it returns, in their order.

        What a mapped function maps in its turn stays on that function's thread.
        """
        if self._pool is None or is_ours():
            return map(function, parts)
        return shared(self._pool, self._threads, as_here(function), iter(parts))

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function on one of the threads.

        On the caller's thread, torch would divide each step among threads of its own,
        which stay busy waiting for a while and slow down what comes next.
        """
        return next(self.map(lambda _: function(*arguments), (None,)))

    def chunk(self, purpose: str, buffers: int = 1) -> int:
        """Return how many elements to take at a time to "count" or "merge" them.

        For the "norm" it is the same whatever the number of threads: what is added up
        in one go decides how a sum is rounded. `buffers` says how many of a chunk's
        size the work takes, of 4 bytes for each element.
        """
        elements = CHUNK[purpose if self.on_cpu else "accelerator"]
        if self.on_cpu and purpose != "norm":
            elements = elements * _FULL_CHUNKS // max(self._threads, _FULL_CHUNKS)
        return max(elements * _FULL_BUFFERS // max(buffers, _FULL_BUFFERS), 1)

    def memory(self, use: str, elements: int, dtype: torch.dtype) -> torch.Tensor:
        """Return uninitialised memory, the same for each use on each thread.

        Asking the system for it again with every chunk would cost more than the sums.
        """
        held: dict[Any, torch.Tensor] = self._memory.__dict__
        memory = held.get((use, dtype))
        if memory is None or memory.numel() < elements:
            with torch.inference_mode(False):  # else of no use outside that mode
                memory = torch.empty(elements, dtype=dtype, device=self._device)
            held[use, dtype] = memory
        return memory if memory.numel() == elements else memory[:elements]


def on_equal_terms(
    like: torch.Tensor, tensors: int, function: Callable[..., Result], *arguments: Any
) -> Result:
    """Call a function on this thread if torch's threads treat denormals as it does.

    Otherwise it is called on one of ours, which does too. The function works on as many
    tensors like the given one at a time.
    """
    elements = like.numel() * tensors
    if elements <= UNDIVIDED or like.device.type != "cpu" or divided_evenly():
        return function(*arguments)
    return Workspace(like.device, elements).run(function, *arguments)


def split(
    elements: int, at_most: int, length: int = 1, threads: int = 1
) -> Iterator[tuple[int, int]]:
    """Split a range into parts of whole slices of `length`, at least one in each.

    All but the last are of one size, and their number is such that so many threads are
    done with them at about the same time.

    Example:
        >>> list(split(10, at_most=5, length=2))
        [(0, 4), (4, 8), (8, 10)]
        >>> list(split(10, at_most=4, threads=2))
        [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    length = max(length, 1)
    slices = max(elements // length, 1)
    rounds = math.ceil(slices / (max(at_most // length, 1) * threads))
    step = math.ceil(slices / (rounds * threads)) * length
    for start in range(0, elements, step):
        yield start, min(start + step, elements)


# Kept for the next tensor: touching fresh memory takes as long as merging.
_KEPT = threading.local()
