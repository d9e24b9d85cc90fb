"""Find the element of a given rank by counting keys, without sorting.

A key is the bits of a float with the sign cleared, read as an integer, so that keys
order as magnitudes do. Its upper 16 bits are counted first; that tells which digit the
wanted key starts with. Then the next 16 bits of just those keys are counted, and so on:
one pass for a 16-bit dtype, two for float32, four for float64. A last look at the
stretch of the slice where the wanted key runs out gives the position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, reduce
from typing import NamedTuple

import torch

CHUNK = {"cpu": 1 << 19, "accelerator": 1 << 24}
"""Elements worked on at a time: what stays in a CPU's cache, or what fills a GPU."""

Keys = Callable[[int, int], torch.Tensor]
"""Returns the keys of a stretch, int [stop - start] to overwrite, of a slice."""

_DIGIT = 16
_DIGITS = 1 << _DIGIT
_SPAN = _DIGITS + 1  # columns for the digits after a prefix, and one for what follows
_STRETCHES = 16  # a slice is counted in so many parts, to find positions quickly
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Ranked(NamedTuple):
    """The element of some rank: its key, and its position in the slice."""

    key: int
    position: int


def magnitude_keys(values: torch.Tensor, *, overwrite: bool = False) -> torch.Tensor:
    """Return integers of the same width that order as the magnitudes of `values`.

    With `overwrite` they take the values' place in memory.

    Example:
        >>> magnitude_keys(torch.tensor([1.0, -1.0, 0.0, -2.0])).argsort().tolist()
        [2, 0, 1, 3]
    """
    integer = _INTEGER[values.element_size()]
    bits = values.view(integer)
    magnitude = torch.iinfo(integer).max
    return bits.bitwise_and_(magnitude) if overwrite else bits.bitwise_and(magnitude)


@cache
def non_finite_key(dtype: torch.dtype) -> int:
    """Return the key of infinity; every non-finite element's is at least that."""
    return int(magnitude_keys(torch.tensor(torch.inf, dtype=dtype)))


def key_value(key: int, dtype: torch.dtype) -> float:
    """Return the magnitude that a key stands for.

    Example:
        >>> key_value(int(magnitude_keys(torch.tensor(-1.5))), torch.float32)
        1.5
    """
    integer = _INTEGER[dtype.itemsize]
    return float(torch.tensor(key, dtype=integer).view(dtype))


def chunk_size(device: torch.device) -> int:
    """Return how many elements to work on at a time."""
    return CHUNK["cpu" if device.type == "cpu" else "accelerator"]


def chunks(
    elements: int, device: torch.device, length: int = 1, *, at_most: int | None = None
) -> Iterator[tuple[int, int]]:
    """Split a range into chunks of whole slices of `length`.

    A chunk has at most `at_most` elements, and no more than suit the device, but always
    at least one slice.
    """
    size, length = chunk_size(device), max(length, 1)
    step = max(min(size, at_most or size) // length, 1) * length
    for start in range(0, elements, step):
        yield start, min(start + step, elements)


def find_ranked(
    keys_of: Keys,
    elements: int,
    ranks: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[list[Ranked], int]:
    """Find the elements of the given ranks in one slice.

    Args:
        keys_of: returns the keys of a stretch of the slice, given start and stop.
        elements: number of elements in the slice.
        ranks: ranks wanted, from 0 to `elements`; the last is the rank that one more,
            infinite element would have.
        dtype: of the values that the keys stand for.
        device: where the keys are.

    Returns:
        The element of each rank, and how many elements are not finite.
    """
    top = non_finite_key(dtype)
    stretches = _stretches(elements, device)
    found = {0: Ranked(0, 0), elements: Ranked(top, 0)}
    wanted = [rank for rank in dict.fromkeys(ranks) if rank not in found]
    if not wanted:
        counts = [(keys_of(a, b) >= top).sum() for part in stretches for a, b in part]
        return [found[rank] for rank in ranks], int(sum(counts))

    shift = 8 * dtype.itemsize - _DIGIT
    with _workers(device) as pool:
        table = _tally(keys_of, stretches, shift, [], pool)
        bad = int(table[:, top >> shift :].sum())
        columns = [_column(table, rank) for rank in wanted]
        prefixes = columns
        while shift:
            shift -= _DIGIT
            distinct = sorted(set(prefixes))
            table = _tally(keys_of, stretches, shift, distinct, pool)
            columns = [_column(table, rank) for rank in wanted]
            prefixes = [
                (prefix << _DIGIT) + column - distinct.index(prefix) * _SPAN - 1
                for prefix, column in zip(prefixes, columns, strict=True)
            ]
    for rank, key, column in zip(wanted, prefixes, columns, strict=True):
        nth = rank - int(table[:, :column].sum())
        at = _position(keys_of, key, nth, table[:, column], stretches)
        found[rank] = Ranked(key, at)
    return [found[rank] for rank in ranks], bad


def _tally(
    keys_of: Keys,
    stretches: list[list[tuple[int, int]]],
    shift: int,
    prefixes: list[int],
    pool: ThreadPoolExecutor | None,
) -> torch.Tensor:
    """Count the digit at `shift` of the keys that have one of the prefixes.

    Returns:
        int64 [stretches, columns] on the CPU. Without prefixes a column is a digit.
        With ascending prefixes, digit `d` after the i-th of them is column
        `i * _SPAN + d + 1`; the columns before, between and after count all other keys
        in their order, so that cumulative counts are ranks in the whole slice.
    """

    def histogram(start: int, stop: int) -> torch.Tensor:
        keys = keys_of(start, stop)
        return _histogram(keys >> shift if shift else keys, prefixes, pool)

    # A generator, so that no more than two histograms of a stretch exist at a time.
    table = [
        reduce(torch.Tensor.add_, (histogram(*chunk) for chunk in stretch))
        for stretch in stretches
    ]
    return torch.stack(table).cpu()


def _histogram(
    keys: torch.Tensor, prefixes: list[int], pool: ThreadPoolExecutor | None
) -> torch.Tensor:
    columns = len(prefixes) * _SPAN + 1 if prefixes else _DIGITS // 2
    if prefixes:
        keys = reduce(
            torch.Tensor.add_,
            [(keys - ((p << _DIGIT) - 1)).clamp_(0, _SPAN) for p in prefixes],
        )
    if keys.device.type == "cuda":
        # torch.bincount would wait for the device to tell it the largest value.
        return torch.histc(keys.long(), columns, min=0, max=columns)
    if pool is None:
        return torch.bincount(keys, minlength=columns)
    # torch counts on one thread only.
    parts = keys.chunk(torch.get_num_threads())
    counts = pool.map(lambda part: torch.bincount(part, minlength=columns), parts)
    return reduce(torch.add, counts)


def _column(table: torch.Tensor, rank: int) -> int:
    """Return the column that the key of this rank was counted in."""
    return int(torch.searchsorted(table.sum(0).cumsum(0), rank, right=True))


def _position(
    keys_of: Keys,
    key: int,
    nth: int,
    per_stretch: torch.Tensor,
    stretches: list[list[tuple[int, int]]],
) -> int:
    """Find the position of the nth element, from 0, among those with the same key."""
    upto = per_stretch.cumsum(0)
    stretch = int(torch.searchsorted(upto, nth, right=True))
    nth -= int(upto[stretch - 1]) if stretch else 0
    for start, stop in stretches[stretch]:
        upto = (keys_of(start, stop) == key).cumsum(0, dtype=torch.int32)
        count = int(upto[-1])
        if nth < count:
            return start + int(torch.searchsorted(upto, nth + 1))
        nth -= count
    raise AssertionError("the keys changed while they were counted")


def _stretches(elements: int, device: torch.device) -> list[list[tuple[int, int]]]:
    parts = list(chunks(elements, device))
    size = -(-len(parts) // _STRETCHES)
    return [parts[i : i + size] for i in range(0, len(parts), size)]


@contextmanager
def _workers(device: torch.device) -> Iterator[ThreadPoolExecutor | None]:
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield None
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool
