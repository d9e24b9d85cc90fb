"""Comparing tensors bit by bit, a piece at a time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

CHUNK = 1 << 22
"""Elements that are looked at together once two tensors are known to differ."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Difference(NamedTuple):
    """How two tensors of one shape and dtype differ.

    `largest` is the largest difference of two values, 0 where only the sign of a zero
    differs, and NaN where no two values can be subtracted. `bits` counts the bits that
    differ in all, if one element does; otherwise it is 0.
    """

    elements: int
    largest: float
    bits: int


def difference(one: torch.Tensor, other: torch.Tensor) -> Difference | None:
    """Compare bits, so that NaN equals itself and -0.0 is not 0.0.

    Both tensors have one shape and dtype; both are on the CPU. Returns None where all
    bits are equal.

    Example:
        >>> difference(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.5]))
        Difference(elements=1, largest=0.5, bits=1)
        >>> difference(torch.tensor([torch.nan]), torch.tensor([torch.nan]))
    """
    (x, first), (y, second) = _flat(one), _flat(other)
    if torch.equal(first, second):
        return None
    elements, largest, changed = 0, math.nan, 0
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        where = first[part] != second[part]
        count = int(where.sum())
        if not count:
            continue
        elements += count
        apart = (x[part][where].double() - y[part][where].double()).abs()
        apart = apart[~apart.isnan()]
        if len(apart):
            top = float(apart.max())
            largest = top if math.isnan(largest) else max(largest, top)
        changed = int((first[part][where] ^ second[part][where])[0])
    size = 8 * first.element_size()
    bits = (changed & ((1 << size) - 1)).bit_count() if elements == 1 else 0
    return Difference(elements, largest, bits)


def count_not_finite(tensor: torch.Tensor) -> int:
    """Return how many elements are infinite or not a number.

    Example:
        >>> count_not_finite(torch.tensor([1.0, torch.inf, torch.nan]))
        2
    """
    values, _ = _flat(tensor)
    if not values.is_floating_point() or not len(values):
        return 0
    if values.element_size() == 1:  # of the float8 kinds torch knows little else
        values = values.float()
    # NaN is the least and the greatest; this takes a tenth of the time of counting.
    if all(end.isfinite() for end in torch.aminmax(values)):
        return 0
    parts = (values[i : i + CHUNK] for i in range(0, len(values), CHUNK))
    return sum(len(part) - int(part.isfinite().sum()) for part in parts)


def _flat(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the elements in one row, and their bits as integers."""
    tensor = tensor.detach().contiguous()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    row = tensor.reshape(-1)
    return row, row.view(_INTEGERS[row.element_size()])
