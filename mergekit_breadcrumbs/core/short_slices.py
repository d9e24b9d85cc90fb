"""Dropping what does not survive of short slices, many at a time.

In long enough ones the upper bits of the keys, a digit, are counted in all slices at
once. That tells which two digits each is cut at. Elements with a digit between these
survive, those with one outside do not, and only the few that have one of the two are
sorted. The shortest slices are sorted as a whole, and so are all on a GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

SORTED_LENGTH, SORTED = 512, 1 << 13
"""Slices of up to so many elements, or so many in all, are faster to sort on a CPU."""

MOST_AT_CUT = 0.2
"""If more of the elements have a digit that is cut at, sorting all is faster."""

_MOST_BITS = 10  # of a digit; with more, the counters would leave the cache

Array = npt.NDArray[Any]


def drop_short(bits: torch.Tensor, small: int, kept: int) -> torch.Tensor:
    """Set to zero, in place, what does not survive of some slices.

    Args:
        bits: of the values, as integers of the same width, contiguous [slices,
            elements], at least one.
        small: how many elements of each slice are dropped as small.
        kept: how many of the next larger ones survive.

    Returns:
        The largest key that there was, a tensor of one element.

    Example:
        >>> values = torch.tensor([[3.0, -1.0, 2.0, -9.0]])
        >>> largest = drop_short(values.view(torch.int32), small=1, kept=2)
        >>> values, largest.view(torch.float32)
        (tensor([[3., 0., 2., 0.]]), tensor(9.))
    """
    keys = bits & torch.iinfo(bits.dtype).max
    largest, length = keys.max(), bits.shape[1]
    if not kept:
        bits.zero_()
    elif kept < length:
        few = length <= SORTED_LENGTH or bits.numel() <= SORTED
        if bits.device.type != "cpu" or (few and bits.itemsize == 8):
            order = torch.sort(keys, dim=-1, stable=True).indices
            if 2 * kept < length:  # the fewer are written one by one
                survivors = order[:, small : small + kept]
                values = bits.gather(-1, survivors)
                bits.zero_().scatter_(-1, survivors, values)
            else:
                bits.scatter_(-1, order[:, :small], 0)
                bits.scatter_(-1, order[:, small + kept :], 0)
        else:
            drop = _drop_by_sorting if few else _drop_by_counting
            drop(bits.numpy(), keys.numpy(), small, kept)
    return largest


def _drop_by_sorting(bits: Array, keys: Array, small: int, kept: int) -> None:
    # An element's place below its key: no two are equal, and NumPy has a fast sort.
    length = keys.shape[1]
    place_bits = length.bit_length()
    fits = 8 * keys.itemsize - 1 + place_bits < 32
    ranked = keys.astype(np.int32 if fits else np.int64)
    ranked <<= place_bits
    ranked |= np.arange(length, dtype=ranked.dtype)
    ordered = np.sort(ranked, axis=1)
    survives = ranked >= ordered[:, small : small + 1]
    survives &= ranked <= ordered[:, small + kept - 1 : small + kept]
    bits *= survives


class _Cuts(NamedTuple):
    """Where each slice is cut: two columns, for the lower cut and for the upper one.

    `digits` are those that it is cut at. So many elements as `numbers` have one of
    them, and so many of these as `lower` rank lower than the one that it is cut at.
    """

    digits: Array
    numbers: Array
    lower: Array


def _drop_by_counting(bits: Array, keys: Array, small: int, kept: int) -> None:
    length, width = keys.shape[1], 8 * keys.itemsize - 1
    digit_bits = min(max(length.bit_length() - 2, 1), _MOST_BITS)
    digits = np.right_shift(keys, width - digit_bits, out=keys)
    cuts = _find_cuts(digits, 1 << digit_bits, small, kept)
    lower, upper = cuts.digits.astype(keys.dtype).T[:, :, None]
    below = upper - digits
    above = np.subtract(digits, lower, out=digits)
    at_cut = above == 0
    at_cut |= below == 0
    if not lower.all():
        # There may be any number of zeros, and dropping them changes nothing.
        at_cut &= bits != 0
    # Of an element outside the two digits, one of the differences is negative.
    above |= below
    above >>= width
    np.invert(above, out=above)
    positions = np.flatnonzero(at_cut)
    if keys.itemsize < 8 and len(positions) > MOST_AT_CUT * keys.size:
        _drop_by_sorting(bits, bits & np.iinfo(bits.dtype).max, small, kept)
        return
    bits &= above
    bits.reshape(-1)[_dropped(bits, positions, cuts)] = 0


def _find_cuts(digits: Array, each: int, small: int, kept: int) -> _Cuts:
    slices, length = digits.shape
    before = np.arange(0, slices * each, each, dtype=np.int32)[:, None]
    columns = torch.from_numpy((digits + before).reshape(-1))
    table = torch.bincount(columns, minlength=slices * each)
    counts, upto = table.numpy(), table.cumsum(0).numpy()
    starts = np.arange(0, slices * length, length)[:, None]
    ranks = starts + np.array([small, small + kept])
    # With none above, the upper cut is after all elements, that is in the last digit.
    places = np.minimum(np.searchsorted(upto, ranks, side="right"), before + (each - 1))
    numbers = counts[places]
    return _Cuts(places - before, numbers, ranks - (upto[places] - numbers))


def _dropped(bits: Array, positions: Array, cuts: _Cuts) -> Array:
    """Return those of some ascending positions whose elements do not survive.

    Positions are of all elements that have a digit which their slice is cut at, but for
    zeros.
    """
    slices, length = bits.shape
    starts = np.searchsorted(positions, np.arange(slices + 1) * length)
    starts, found = starts[:-1], np.diff(starts)
    same = cuts.digits[:, 0] == cuts.digits[:, 1]
    at_upper = np.where(same, 0, cuts.numbers[:, 1])
    at_lower = found - at_upper
    zeros = cuts.numbers[:, 0] - at_lower
    # In a slice, those from here to there survive.
    first = np.maximum(cuts.lower[:, 0] - zeros, 0)
    last = np.where(same, -zeros, at_lower) + cuts.lower[:, 1]
    rank = np.arange(len(positions)) - starts.repeat(found)
    drops = rank < first.repeat(found)
    drops |= rank >= last.repeat(found)
    dropped: Array = _ranked(bits, positions)[drops]
    return dropped


def _ranked(bits: Array, positions: Array) -> Array:
    """Return ascending positions slice by slice, ranked within each slice."""
    length = bits.shape[1]
    keys = bits.reshape(-1)[positions] & np.iinfo(bits.dtype).max
    slices, places = np.divmod(positions, length)
    if keys.itemsize == 8:
        return positions[np.lexsort((keys, slices))]
    # All that ranks an element in one number, for which NumPy has a faster sort.
    width, place_bits = 8 * keys.itemsize - 1, length.bit_length()
    packed: Array = (slices << width | keys) << place_bits | places
    packed.sort()
    places = packed & ((1 << place_bits) - 1)
    ranked: Array = (packed >> (width + place_bits)) * length + places
    return ranked
