"""Merging a small weight, the task vectors of all models at once.

A norm or a bias has so few elements that the number of steps is what takes time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergekit_breadcrumbs.core.keys import bits_of, magnitude_keys, non_finite_key
from mergekit_breadcrumbs.core.selection import SliceCounts, refuse_non_finite
from mergekit_breadcrumbs.core.short_slices import drop_short
from mergekit_breadcrumbs.core.summation import work_dtype


def merge_small(
    base: torch.Tensor,
    finetuned: Sequence[torch.Tensor],
    counts: Sequence[SliceCounts],
    weight: Sequence[float],
    factor: float,
    names: Sequence[str],
    tensor: str | None,
) -> tuple[torch.Tensor, int]:
    """Return `base + factor * sum of weight * survivors`, where a tensor is one slice.

    With it comes the largest key in any of the task vectors.

    Raises:
        ValueError: if a task vector is not finite, naming the model.
    """
    deltas = _deltas(base, finetuned)
    if not deltas.numel():
        return base.clone(), 0
    bits = bits_of(deltas)
    if all(same == counts[0] for same in counts):
        largest = int(drop_short(bits, counts[0].small, counts[0].kept))
    else:
        largest = max(
            int(drop_short(own.view(1, -1), of.small, of.kept))
            for own, of in zip(bits, counts, strict=True)
        )
    if largest >= non_finite_key(base.dtype):
        keys = magnitude_keys(_deltas(base, finetuned), overwrite=True)
        non_finite = (keys >= non_finite_key(base.dtype)).sum(1).tolist()
        for name, count in zip(names, non_finite, strict=True):
            refuse_non_finite(count, base.numel(), name, tensor)
    values = deltas.to(work_dtype(base.dtype))
    total = torch.zeros_like(values[0])
    for survivors, coefficient in zip(values, weight, strict=True):
        total.add_(survivors.mul_(coefficient))
    merged = total.mul_(factor).view(base.shape).add_(base).to(base.dtype)
    return merged, largest


def _deltas(base: torch.Tensor, finetuned: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the task vectors, [models, elements]."""
    return _stack(list(finetuned)).sub_(base).view(len(finetuned), -1)


def _stack(tensors: list[torch.Tensor]) -> torch.Tensor:
    try:
        return torch.stack(tensors)
    except RuntimeError:  # so autocast, where it is on, refuses some 16-bit dtypes
        with torch.autocast(tensors[0].device.type, enabled=False):
            return torch.stack(tensors)
