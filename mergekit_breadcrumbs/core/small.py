"""Merging a small weight, the task vectors of all models at once.

A norm or a bias has so few elements that the number of steps is what takes time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergekit_breadcrumbs.core.keys import magnitude_keys, non_finite_key
from mergekit_breadcrumbs.core.selection import SliceCounts, dropped, refuse_non_finite


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
    deltas = _stack(list(finetuned)).sub_(base).view(len(finetuned), -1)
    values = deltas.double() if base.dtype == torch.float64 else deltas.float()
    keys = magnitude_keys(deltas, overwrite=values is not deltas)
    largest = int(keys.max()) if deltas.numel() else 0
    if largest >= non_finite_key(base.dtype):
        non_finite = (keys >= non_finite_key(base.dtype)).sum(1).tolist()
        for name, count in zip(names, non_finite, strict=True):
            refuse_non_finite(count, base.numel(), name, tensor)
    if all(same == counts[0] for same in counts):
        _drop(values, keys, counts[0])
    else:
        for index, own in enumerate(counts):
            _drop(values[index : index + 1], keys[index : index + 1], own)
    total = torch.zeros_like(values[0])
    for survivors, coefficient in zip(values, weight, strict=True):
        total.add_(survivors.mul_(coefficient))
    merged = total.mul_(factor).view(base.shape).add_(base).to(base.dtype)
    return merged, largest


def _stack(tensors: list[torch.Tensor]) -> torch.Tensor:
    try:
        return torch.stack(tensors)
    except RuntimeError:  # so autocast, where it is on, refuses some 16-bit dtypes
        with torch.autocast(tensors[0].device.type, enabled=False):
            return torch.stack(tensors)


def _drop(values: torch.Tensor, keys: torch.Tensor, counts: SliceCounts) -> None:
    if counts.kept < keys.shape[-1]:
        for indices in dropped(keys, counts):
            values.scatter_(-1, indices, 0)
