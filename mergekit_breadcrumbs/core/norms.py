"""Sums of magnitudes, rounded the same whatever the number of threads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergekit_breadcrumbs.core.summation import float_sum

NORM_SCALES = (1.0, 2.0**-64)
"""By which norms are multiplied; the second where one is over any float64."""

_BLOCK = 4096

Numbers = list[float] | torch.Tensor


def added_up(parts: Sequence[Numbers]) -> float:
    """Return the sum of all numbers, exactly rounded."""
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    if tensors:  # waited for once
        parts = [torch.cat(tensors).tolist()]
    return float_sum(number for part in parts for number in part)


def magnitude_sums(values: torch.Tensor, scale: float) -> Numbers:
    """Return the sum of the magnitudes, times a scale, of each block of some values."""
    values = values.abs()
    if scale != 1:
        values.mul_(scale)
    whole = values.numel() // _BLOCK * _BLOCK
    blocks = values[:whole].view(-1, _BLOCK).sum(1, dtype=torch.float64)
    rest = values[whole:].sum(dtype=torch.float64)
    sums = torch.cat([blocks, rest.view(1)])
    # A GPU would have to be waited for; on a CPU, small tensors fragment the heap.
    return sums.tolist() if sums.device.type == "cpu" else sums
