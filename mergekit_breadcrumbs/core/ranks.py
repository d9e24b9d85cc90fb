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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mergekit_breadcrumbs.core.keys import non_finite_key
from mergekit_breadcrumbs.core.workspace import Workspace, split

Keys = Callable[[int, int], torch.Tensor]
"""Returns the keys of a stretch, int [stop - start] to overwrite, of a slice."""
Piece = tuple[int, int]
Stretch = list[Piece]
Counts = npt.NDArray[np.int64]

_DIGIT = 16
_DIGITS = 1 << _DIGIT
_STRETCHES = 8  # a slice is counted in so many parts, to find positions quickly


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


class _Place(NamedTuple):
    """The nth element, from 0, of those whose keys begin with a prefix.

    `in_stretches` says how many such elements each stretch has.
    """

    prefix: int
    nth: int
    in_stretches: list[int]


class _Table:
    """How often each digit follows a prefix, int64 [digits] for each stretch."""

    def __init__(self, prefix: int, counts: Sequence[Counts]) -> None:
        self._prefix, self._counts = prefix, counts
        self._upto: Counts = reduce(np.add, counts).cumsum()

    def place(self, nth: int) -> _Place:
        """Return the place of the nth element with this prefix."""
        digit, before = _find(self._upto, nth)
        prefix = (self._prefix << _DIGIT) + digit
        return _Place(prefix, nth - before, [int(each[digit]) for each in self._counts])

    def number(self, first: int) -> int:
        """Return how many elements have this prefix and then `first` or more."""
        return int(self._upto[-1] - self._upto[first - 1])


def _find(upto: Counts, nth: int) -> tuple[int, int]:
    """Return in which part the nth element is, and how many are in those before."""
    part = int(np.searchsorted(upto, nth, side="right"))
    return part, int(upto[part - 1]) if part else 0


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
    top = non_finite_key(dtype)
    # Of 64-bit keys half as many: memory does not grow with the dtype.
    chunk = workspace.chunk("count", 6 if dtype.itemsize == 8 else 1)
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
    table = _count_digits(keys_of, stretches, shift, [], workspace)[0]
    non_finite = table.number(top >> shift)
    largest = ((table.place(elements - 1).prefix + 1) << shift) - 1
    places = [table.place(rank) for rank in wanted]
    while shift:
        shift -= _DIGIT
        prefixes = list(dict.fromkeys(place.prefix for place in places))
        tables = _count_digits(keys_of, stretches, shift, prefixes, workspace)
        after = dict(zip(prefixes, tables, strict=True))
        places = [after[place.prefix].place(place.nth) for place in places]

    def position(place: _Place) -> int:
        return _position(keys_of, place, stretches, workspace)

    positions = workspace.map(position, places)
    for rank, place, at in zip(wanted, places, positions, strict=True):
        found[rank] = Ranked(place.prefix, at)
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
) -> list[_Table]:
    """Count the digit at `shift` of the keys that have each of the prefixes.

    Without prefixes, where it is the first digit, that of all keys.
    """

    def count_stretch(stretch: Stretch) -> list[Any]:
        counts: list[Any] = [0] * max(len(prefixes), 1)
        for chunk in stretch:
            keys = keys_of(*chunk)
            if not prefixes:
                digits = keys.bitwise_right_shift_(shift) if shift else keys
                counts[0] += _histogram(digits, _DIGITS // 2)  # the sign is not there
            for index, prefix in enumerate(prefixes):
                counts[index] += _histogram_after(keys, prefix, shift, workspace)
        return counts

    counted = list(workspace.map(count_stretch, stretches))
    by_prefix = (
        [one.cpu().numpy() for one in each] for each in zip(*counted, strict=True)
    )
    return [_Table(*each) for each in zip(prefixes or [0], by_prefix, strict=True)]


def _histogram_after(
    keys: torch.Tensor, prefix: int, shift: int, workspace: Workspace
) -> torch.Tensor:
    """Count the digit at `shift` of the keys that have a prefix."""
    memory = workspace.memory("after", keys.numel(), keys.dtype)
    rest = torch.sub(keys, prefix << shift + _DIGIT, out=memory)
    end = 1 << shift + _DIGIT
    if not workspace.on_cpu:
        return _histogram(rest[(rest >= 0) & (rest < end)] >> shift, _DIGITS)
    array, unsigned = rest.numpy(), f"u{rest.itemsize}"
    # The least key has all the elements that are zero, and many of those that were once
    # in a 16-bit dtype. To pick so many out would be slow.
    least = array.size - np.count_nonzero(array)
    array -= 1
    chosen = workspace.memory("chosen", array.size, torch.bool).numpy()
    # What is less than the prefix is negative, and large without a sign.
    np.less(array.view(unsigned), end - 1, out=chosen)
    digits = torch.from_numpy((array[chosen] + 1) >> shift)
    counts = _histogram(digits, _DIGITS)
    counts[0] += least
    return counts


def _histogram(digits: torch.Tensor, columns: int) -> torch.Tensor:
    if digits.device.type == "cuda":
        # torch.bincount would wait for the device to tell it the largest value, and
        # threads that add to the same count wait for one another: sorting is faster.
        ordered = digits.sort().values
        edges = torch.arange(1, columns, dtype=digits.dtype, device=digits.device)
        upto = torch.searchsorted(ordered, edges)
        return upto.diff(
            prepend=upto.new_zeros(1), append=upto.new_full((1,), len(digits))
        )
    return torch.bincount(digits, minlength=columns)


def _position(
    keys_of: Keys, place: _Place, stretches: list[Stretch], workspace: Workspace
) -> int:
    """Return the position of an element, whose place has all of its key as a prefix."""
    index, before = _find(np.cumsum(place.in_stretches), place.nth)
    nth = place.nth - before
    pieces = [
        (first + a, first + b)
        for first, last in stretches[index]
        for a, b in split(last - first, workspace.chunk("norm"))
    ]
    # From the nearer end.
    forward = 2 * nth < place.in_stretches[index]
    if not forward:
        nth = place.in_stretches[index] - 1 - nth
        pieces.reverse()
    for start, stop in pieces:
        keys = keys_of(start, stop).cpu().numpy()
        memory = workspace.memory("chosen", len(keys), torch.bool).numpy()
        same = np.equal(keys, place.prefix, out=memory)
        number = int(np.count_nonzero(same))
        if nth < number:
            return start + int(np.flatnonzero(same)[nth if forward else ~nth])
        nth -= number
    raise AssertionError("the keys changed while they were counted")
