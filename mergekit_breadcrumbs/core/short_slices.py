"""Dropping what does not survive of short slices, many at a time.

A slice is cut at two of its elements, its first and its last survivor. Both are found
by partial sorting, one after the other: NumPy has SIMD for one element at a time, but
not for several. (Slices of a few hundred elements are sorted as a whole.) What is
sorted is an element's key with its place in the slice below it, as far as 64 bits have
room for both. So no two are equal, and no ties have to be told apart; among many equal
numbers NumPy would be slow.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

BLOCK = 1 << 17
"""Elements taken at a time, as far as slices are shorter.

With two threads half as many take an eighth longer, with one no longer.
"""

_SORTED = 256  # slices of so few elements are sorted in less time
_UNSIGNED: dict[int, np.dtype[Any]] = {size: np.dtype(f"u{size}") for size in (4, 8)}

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
    if not bits.is_cpu:
        return _drop_by_sorting(bits, small, kept)
    (slices, length), array, largest = bits.shape, bits.numpy(), 0
    step = max(BLOCK // length, 1)
    for at in range(0, slices, step):
        largest = max(largest, _drop(array[at : at + step], small, kept))
    return largest


def drop_small(
    bits: torch.Tensor, small: int, kept: int, keys: torch.Tensor
) -> torch.Tensor:
    """Set to zero, in place, what is small in some slices, and tell what is what.

    Args:
        bits: as those of `drop_short`, as are `small` and `kept`.
        small: how many elements of each slice are small.
        kept: how many of the next larger ones survive.
        keys: memory like that of `bits`. It takes the keys of each slice: first of
            those that are small, then of those kept, then of the large ones, and within
            the three in any order, but for this: the first one that is not small is the
            least of these, and the last one kept the largest of those kept.

    Returns:
        The flat positions, int64, of the large ones, in any order.

    Example:
        >>> values = torch.tensor([[3.0, -1.0, 2.0, -9.0]])
        >>> keys = torch.empty(values.shape, dtype=torch.int32)
        >>> drop_small(values.view(torch.int32), small=1, kept=2, keys=keys)
        tensor([3])
        >>> values, keys.view(torch.float32)
        (tensor([[ 3.,  0.,  2., -9.]]), tensor([[1., 2., 3., 9.]]))
    """
    if not bits.is_cpu:
        return _drop_small_by_sorting(bits, small, kept, keys)
    slices, length = bits.shape
    array, ordered, step = bits.numpy(), keys.numpy(), max(BLOCK // length, 1)
    large = np.empty((slices, length - small - kept), np.int64)
    for at in range(0, slices, step):
        block = slice(at, at + step)
        _drop_small(array[block], small, kept, ordered[block], large[block])
    large += np.arange(0, bits.numel(), length)[:, None]
    return torch.from_numpy(large.ravel())


def _drop_small_by_sorting(
    bits: torch.Tensor, small: int, kept: int, keys: torch.Tensor
) -> torch.Tensor:
    found = (bits & torch.iinfo(bits.dtype).max).sort(dim=-1, stable=True)
    keys.copy_(found.values)
    bits.scatter_(-1, found.indices[:, :small], 0)
    first = torch.arange(0, bits.numel(), bits.shape[1], device=bits.device)
    large = found.indices[:, small + kept :] + first[:, None]
    return large.view(-1)


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
    keys, shift, ties = _ranked(bits)
    if not 0 < kept < bits.shape[1]:
        if not kept:
            bits[...] = 0
        return int(keys.max()) >> shift
    ordered = _partition(keys.copy(), small, kept)
    last = small + kept - 1
    first_one, last_one = ordered[:, small, None], ordered[:, last, None]
    if ties:
        survives = _ranks_from(keys, first_one, small)
        survives &= ~_ranks_from(keys, last_one, small + kept)
    else:
        keys -= first_one  # what ranks lower becomes large, as there are no signs
        survives = keys <= last_one - first_one
    bits *= survives
    top = ordered[:, last:]
    # Among a few numbers Python finds the largest in a third of the time.
    largest = max(top.ravel().tolist()) if top.size < 64 else int(top.max())
    return largest >> shift


def _drop_small(
    bits: Array, small: int, kept: int, ordered: Array, large: Array
) -> None:
    """Do what `drop_small` does; `large` takes places in the slices, in any order."""
    keys, shift, ties = _ranked(bits)
    found = _partition(keys.copy(), small, kept)
    length, last = bits.shape[1], small + kept
    if small == length:
        bits[...] = 0
    elif ties:
        bits *= _ranks_from(keys, found[:, small, None], small)
        cut = found[:, max(small, last - 1), None]
        marked = _ranks_from(keys, cut, last)
        large[...] = marked.nonzero()[1].reshape(large.shape)
    else:
        bits *= keys >= found[:, small, None]
        np.bitwise_and(found[:, last:], (1 << shift) - 1, out=large, casting="unsafe")
    np.right_shift(found, shift, out=ordered, casting="unsafe")


def _ranked(bits: Array) -> tuple[Array, int, bool]:
    """Return keys as they rank in their slices, how they are shifted, if they may tie.

    They are unsigned, [slices, elements], each at the upper end of its integer. Below
    it is its place in the slice, unless there may be ties, as there is no room for it.
    """
    length, width = bits.shape[1], 8 * bits.itemsize - 1
    integer = 32 if width == 15 and length <= 1 << 17 else 64
    shift = integer - width
    keys = bits.astype(_UNSIGNED[integer // 8])
    keys <<= shift  # the sign falls out
    ties = length > 1 << shift
    if not ties:
        keys |= _places(length, integer // 8)
    return keys, shift, ties


@lru_cache(maxsize=16)
def _places(length: int, itemsize: int) -> Array:
    return np.arange(length, dtype=_UNSIGNED[itemsize])


def _partition(keys: Array, small: int, kept: int) -> Array:
    """Put keys in the order of `drop_small`, in place."""
    if keys.shape[1] <= _SORTED:
        keys.sort(axis=1)
        return keys
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
