"""Find the element of a given rank by counting keys, without sorting.

A key is the bits of a float with the sign cleared, read as an integer, so that keys
order as magnitudes do. Its upper 16 bits are counted first; that tells which digit the
wanted key starts with. Then the next 16 bits of just those keys are counted, and so on:
one pass for a 16-bit dtype, two for float32, four for float64. A last look at the
stretch of the slice where the wanted key runs out gives the position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import non_finite_key
from mergekit_breadcrumbs.core.workspace import Workspace, split

Keys = Callable[[int, int], torch.Tensor]
"""Returns the keys of a stretch, int [stop - start] to overwrite, of a slice."""
Stretch = list[tuple[int, int]]

_DIGIT = 16
_DIGITS = 1 << _DIGIT
_SPAN = _DIGITS + 1  # columns for the digits after a prefix, and one for what follows
_STRETCHES = 8  # a slice is counted in so many parts, to find positions quickly
_BLOCK = 1 << 10  # elements looked at one by one


class Ranked(NamedTuple):
    """The element of some rank: its key, and its position in the slice."""

    key: int
    position: int


class Found(NamedTuple):
    """The elements of some ranks in a slice, and what else was seen of it.

    `non_finite` is how many elements are not finite. No key is over `largest`, which
    has the same upper 16 bits as the largest of them.
    """

    ranked: list[Ranked]
    non_finite: int
    largest: int


def find_ranked(
    keys_of: Keys,
    elements: int,
    ranks: Sequence[int],
    dtype: torch.dtype,
    workspace: Workspace,
) -> Found:
    """Find the elements of the given ranks in one slice.

    Ranks are from 0 to `elements`; the last is the rank that one more, infinite element
    would have. Threads share the parts of the slice; `dtype` is that of its values.
    """
    top, chunk = non_finite_key(dtype), workspace.chunk("count")
    # A GPU would be waited for with every chunk of a stretch; there each is its own.
    most = -(-elements // (chunk * _STRETCHES)) if workspace.on_cpu else 1
    parts = list(split(elements, chunk * max(most, 1)))
    stretches = [[(a + x, a + y) for x, y in split(b - a, chunk)] for a, b in parts]
    found = {0: Ranked(0, 0), elements: Ranked(top, 0)}
    wanted = [rank for rank in dict.fromkeys(ranks) if rank not in found]
    if not wanted:
        non_finite, largest = _look_through(keys_of, stretches, top, workspace)
        return Found([found[rank] for rank in ranks], non_finite, largest)

    shift = 8 * dtype.itemsize - _DIGIT
    table = _count_digits(keys_of, stretches, shift, [], workspace)
    non_finite = int(table[:, top >> shift :].sum())
    *places, last = workspace.run(_places, table, [*wanted, elements - 1])
    largest = ((last[0] + 1) << shift) - 1
    prefixes = [column for column, _ in places]
    while shift:
        shift -= _DIGIT
        distinct = sorted(set(prefixes))
        table = _count_digits(keys_of, stretches, shift, distinct, workspace)
        places = workspace.run(_places, table, wanted)
        prefixes = [
            (prefix << _DIGIT) + column - distinct.index(prefix) * _SPAN - 1
            for prefix, (column, _) in zip(prefixes, places, strict=True)
        ]

    def position(of: tuple[int, int, tuple[int, int]]) -> int:
        rank, key, (column, before) = of
        return _position(keys_of, key, rank - before, table[:, column], stretches)

    positions = workspace.map(position, zip(wanted, prefixes, places, strict=True))
    found |= dict(zip(wanted, map(Ranked, prefixes, positions), strict=True))
    return Found([found[rank] for rank in ranks], non_finite, largest)


def _look_through(
    keys_of: Keys, stretches: list[Stretch], top: int, workspace: Workspace
) -> tuple[int, int]:
    """Return how many keys are not under `top`, and the largest key."""

    def largest_of(stretch: Stretch) -> torch.Tensor:
        return torch.stack([keys_of(a, b).amax() for a, b in stretch])

    def count(stretch: Stretch) -> int:
        return sum(int((keys_of(a, b) >= top).sum()) for a, b in stretch)

    largest = int(torch.cat(list(workspace.map(largest_of, stretches))).amax())
    non_finite = sum(workspace.map(count, stretches)) if largest >= top else 0
    return non_finite, largest


def _count_digits(
    keys_of: Keys,
    stretches: list[Stretch],
    shift: int,
    prefixes: list[int],
    workspace: Workspace,
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
        return _histogram(keys.bitwise_right_shift_(shift) if shift else keys, prefixes)

    def count_stretch(stretch: Stretch) -> torch.Tensor:
        # A generator, so that no more than two histograms exist at a time.
        return reduce(torch.Tensor.add_, (histogram(*chunk) for chunk in stretch))

    tables = list(workspace.map(count_stretch, stretches))
    return workspace.run(torch.stack, tables).cpu()


def _histogram(keys: torch.Tensor, prefixes: list[int]) -> torch.Tensor:
    columns = _DIGITS // 2
    if prefixes:
        columns = len(prefixes) * _SPAN + 1
        keys = reduce(
            torch.Tensor.add_,
            [(keys - ((p << _DIGIT) - 1)).clamp_(0, _SPAN) for p in prefixes],
        )
    if keys.device.type == "cuda":
        # torch.bincount would wait for the device to tell it the largest value, and
        # threads that add to the same count wait for one another: sorting is faster.
        ordered = keys.sort().values
        edges = torch.arange(1, columns, dtype=keys.dtype, device=keys.device)
        upto = torch.searchsorted(ordered, edges)
        return upto.diff(
            prepend=upto.new_zeros(1), append=upto.new_full((1,), len(keys))
        )
    return torch.bincount(keys, minlength=columns)


def _places(table: torch.Tensor, ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Return the column in which each rank's key is, and how many keys lie before."""
    upto = table.sum(0).cumsum(0)
    wanted = torch.tensor(ranks, device="cpu")  # where the table is
    columns = torch.searchsorted(upto, wanted, right=True).tolist()
    return [(column, int(upto[column - 1]) if column else 0) for column in columns]


def _position(
    keys_of: Keys,
    key: int,
    nth: int,
    per_stretch: torch.Tensor,
    stretches: list[Stretch],
) -> int:
    """Find the position of the nth element, from 0, among those with the same key."""
    upto = per_stretch.cumsum(0)
    stretch = int(torch.searchsorted(upto, nth, right=True))
    nth -= int(upto[stretch - 1]) if stretch else 0
    for start, stop in stretches[stretch]:
        same = keys_of(start, stop).eq_(key)
        whole = len(same) // _BLOCK * _BLOCK
        # In their own dtype, which every block fits in; else all is copied to int64.
        sums = same[:whole].view(-1, _BLOCK).sum(1, dtype=same.dtype)
        blocks = [sums, same[whole:].sum().view(1)]
        upto = torch.cat(blocks).cumsum(0)
        block = int(torch.searchsorted(upto, nth, right=True))
        if block < len(upto):
            nth -= int(upto[block - 1]) if block else 0
            first = block * _BLOCK
            inside = same[first : first + _BLOCK].cumsum(0)
            return start + first + int(torch.searchsorted(inside, nth, right=True))
        nth -= int(upto[-1])
    raise AssertionError("the keys changed while they were counted")
