"""Dropping what does not survive of short slices, many at a time.

A slice is cut at two of its elements, its first and its last survivor. Both are found
by partial sorting, one after the other: NumPy has SIMD for one element at a time, but
not for several. What is sorted is an element's key with its place in the slice below
it, as far as 64 bits have room for both. So no two are equal, and no ties have to be
told apart; among many equal numbers NumPy would be slow.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

BLOCK = 1 << 16
"""Elements taken at a time, as far as slices are shorter: what stays in the cache."""

Array = npt.NDArray[Any]


def drop_short(bits: torch.Tensor, small: int, kept: int) -> int | torch.Tensor:
    """Set to zero, in place, what does not survive of some slices.

    Args:
        bits: of the values, as integers of the same width, contiguous [slices,
            elements], at least one.
        small: how many elements of each slice are dropped as small.
        kept: how many of the next larger ones survive.

    Returns:
        The largest key that there was; on a GPU, a tensor of one element that nobody
        has waited for.

    Example:
        >>> values = torch.tensor([[3.0, -1.0, 2.0, -9.0]])
        >>> largest = drop_short(values.view(torch.int32), small=1, kept=2)
        >>> values, torch.tensor(largest, dtype=torch.int32).view(torch.float32)
        (tensor([[3., 0., 2., 0.]]), tensor(9.))
    """
    if bits.device.type != "cpu":
        return _drop_by_sorting(bits, small, kept)
    slices, length = bits.shape
    array, step = bits.numpy(), max(BLOCK // length, 1)
    blocks = (array[at : at + step] for at in range(0, slices, step))
    return max(_drop(block, small, kept) for block in blocks)


class Fates(NamedTuple):
    """What becomes of the elements of some slices.

    `ordered` are their keys, [slices, elements], integers of 32 bits or, of a 64-bit
    dtype, 64: first those that are small, then those kept, then the large ones, and
    within the three in any order, but for this: the first one that is not small is the
    least of these. `not_small` marks those that are kept or large, [slices, elements];
    `large` are the flat positions, int64, of the large ones, in any order.
    """

    ordered: torch.Tensor
    not_small: torch.Tensor
    large: torch.Tensor


def find_fates(bits: torch.Tensor, small: int, kept: int) -> Fates:
    """Return what becomes of the elements of some slices; for arguments, `drop_short`.

    Example:
        >>> values = torch.tensor([[3.0, -1.0, 2.0, -9.0]])
        >>> fates = find_fates(values.view(torch.int32), small=1, kept=2)
        >>> fates.not_small, fates.large
        (tensor([[ True, False,  True,  True]]), tensor([3]))
    """
    if bits.device.type != "cpu":
        return _fates_by_sorting(bits, small, kept)
    length, last = bits.shape[1], small + kept
    ranked, place_bits = _ranked(bits.numpy())
    ordered = _partition(ranked.copy(), small, kept)
    if small == length:
        not_small, large = np.zeros(bits.shape, np.bool_), np.zeros(0, np.int64)
    elif place_bits:
        not_small = ranked >= ordered[:, [small]]
        places = ordered[:, last:] & ((1 << place_bits) - 1)
        large = (places + np.arange(0, bits.numel(), length)[:, None]).ravel()
    else:
        not_small = _ranks_from(ranked, ordered[:, [small]], small)
        cut = ordered[:, [max(small, last - 1)]]
        large = np.flatnonzero(_ranks_from(ranked, cut, last))
    ordered >>= place_bits
    wide = np.int64 if bits.itemsize == 8 else np.int32
    keys = ordered.astype(wide, copy=False)
    return Fates(*map(torch.from_numpy, (keys, not_small, large)))


def _fates_by_sorting(bits: torch.Tensor, small: int, kept: int) -> Fates:
    keys, order = (bits & torch.iinfo(bits.dtype).max).sort(dim=-1, stable=True)
    keys = keys.to(torch.int32) if keys.itemsize == 2 else keys
    not_small = torch.ones_like(keys, dtype=torch.bool)
    not_small.scatter_(-1, order[:, :small], False)
    first = torch.arange(0, bits.numel(), bits.shape[1], device=bits.device)
    large = order[:, small + kept :] + first[:, None]
    return Fates(keys, not_small, large.view(-1))


def _drop_by_sorting(bits: torch.Tensor, small: int, kept: int) -> torch.Tensor:
    keys = bits & torch.iinfo(bits.dtype).max
    if not kept:
        bits.zero_()
    elif kept < bits.shape[1]:
        order = torch.sort(keys, dim=-1, stable=True).indices
        if 2 * kept < bits.shape[1]:  # the fewer are written one by one
            survivors = order[:, small : small + kept]
            values = bits.gather(-1, survivors)
            bits.zero_().scatter_(-1, survivors, values)
        else:
            bits.scatter_(-1, order[:, :small], 0)
            bits.scatter_(-1, order[:, small + kept :], 0)
    return keys.max()


def _drop(bits: Array, small: int, kept: int) -> int:
    ranked, place_bits = _ranked(bits)
    if not 0 < kept < bits.shape[1]:
        if not kept:
            bits[...] = 0
        return int(ranked.max()) >> place_bits
    ordered = _partition(ranked.copy(), small, kept)
    last = small + kept - 1
    first_one, last_one = ordered[:, small, None], ordered[:, last, None]
    if place_bits:
        # What ranks lower than the first one is negative, and large without a sign.
        ranked -= first_one
        unsigned = f"u{ranked.itemsize}"
        survives = ranked.view(unsigned) <= (last_one - first_one).view(unsigned)
    else:
        survives = _ranks_from(ranked, first_one, small)
        survives &= ~_ranks_from(ranked, last_one, small + kept)
    bits *= survives
    return int(ordered[:, last:].max()) >> place_bits


def _ranked(bits: Array) -> tuple[Array, int]:
    """Return keys with their places below them, and how many bits these take.

    That is none where there is no room for them.
    """
    length, width = bits.shape[1], 8 * bits.itemsize - 1
    place_bits = length.bit_length() if width < 63 else 0
    dtype = np.int32 if width + place_bits < 32 else np.int64
    ranked = np.bitwise_and(bits, (1 << width) - 1, dtype=dtype)
    if place_bits:
        ranked <<= place_bits
        ranked |= _places(length, dtype)
    return ranked, place_bits


@lru_cache(maxsize=16)
def _places(length: int, dtype: type) -> Array:
    return np.arange(length, dtype=dtype)


def _partition(keys: Array, small: int, kept: int) -> Array:
    """Put keys in the order of `Fates`, in place.

    The last one that is kept is the largest of them.
    """
    if small < keys.shape[1]:
        keys.partition(small, axis=1)
    if kept > 1:
        keys[:, small + 1 :].partition(kept - 2, axis=1)
    return keys


def _ranks_from(keys: Array, cut: Array, rank: int) -> Array:
    """Mark what ranks `rank` or higher; `cut` is the key of that rank or the one below.

    Of equal keys, the first ones rank lower.
    """
    equal = keys == cut
    under = rank - (keys < cut).sum(1, keepdims=True)
    marked: Array = (keys > cut) | (equal & (equal.cumsum(1) > under))
    return marked
