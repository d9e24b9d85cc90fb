"""Threads of our own, and how they share work.

They are kept for the next tensor: to start one takes as long as merging a million
elements.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import torch

_BATCH = 32  # parts for each thread, whose results are kept until all are there
_LOCK = threading.Lock()
_THREAD = threading.local()  # has `is_ours` on a thread of a pool

T = TypeVar("T")
Result = TypeVar("Result")

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def is_ours() -> bool:
    """Whether this is a thread of a pool.

    Example:
        >>> is_ours(), pool_of(2).submit(is_ours).result()
        (False, True)
    """
    return hasattr(_THREAD, "is_ours")


def shared(
    pool: ThreadPoolExecutor,
    threads: int,
    function: Callable[[T], Result],
    parts: Iterator[T],
) -> Iterator[Result]:
    """Have threads of a pool apply a function to all parts; yield what it returns.

    Each takes part after part. To wake one for every part, and the caller after it,
    took up to a tenth of a merge.

    Example:
        >>> list(shared(pool_of(2), 2, abs, iter([-1, 2, -3])))
        [1, 2, 3]
    """
    while batch := list(islice(parts, _BATCH * threads)):
        results: list[Any] = [None] * len(batch)
        todo = deque(enumerate(batch))
        busy = [
            pool.submit(_work_off, todo, function, results)
            for _ in range(min(threads, len(batch)))
        ]
        try:
            for thread in busy:
                thread.result()
        finally:  # after Ctrl-C nothing more is begun
            todo.clear()
        yield from results


def _work_off(
    todo: deque[tuple[int, T]], function: Callable[[T], Result], results: list[Result]
) -> None:
    """Apply a function to parts that no other thread has taken, until none is left."""
    try:
        for index, part in _taken(todo):
            results[index] = function(part)
    except BaseException:
        todo.clear()
        raise


def _taken(todo: deque[T]) -> Iterator[T]:
    with suppress(IndexError):  # no part is left
        while True:
            yield todo.popleft()


def pool_of(threads: int) -> ThreadPoolExecutor:
    """Return threads on which torch does not divide its steps any further."""
    key = os.getpid(), threads  # after a fork there are none in the child
    with _LOCK:
        if key not in _pools:
            _pools.clear()  # a pool still in use lives on until its user is done
            _pools[key] = _start(threads)
        return _pools[key]


def _start(threads: int) -> ThreadPoolExecutor:
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        threads, "mergekit-breadcrumbs", initializer=_stay_on_this_thread
    )
    started = threading.Barrier(threads)
    try:
        list(pool.map(lambda _: started.wait(), range(threads)))
    except BaseException:
        started.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        # What a thread sets for itself is also what later threads start with.
        torch.set_num_threads(before)
    return pool


def _stay_on_this_thread() -> None:
    _THREAD.is_ours = True
    torch.get_num_threads()  # the first use in a thread sets it; ours must be later
    torch.set_num_threads(1)
