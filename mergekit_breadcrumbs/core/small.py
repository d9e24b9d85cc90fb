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
    labels: Sequence[str],
) -> torch.Tensor:
    """Return `base + factor * sum of weight * survivors`, where a tensor is one slice.

    Raises:
        ValueError: if a task vector is not finite, with the model's label.
    """
    deltas = torch.stack(list(finetuned)).sub_(base).view(len(finetuned), -1)
    values = deltas.double() if base.dtype == torch.float64 else deltas.float()
    keys = magnitude_keys(deltas, overwrite=values is not deltas)
    if deltas.numel() and int(keys.max()) >= non_finite_key(base.dtype):
        non_finite = (keys >= non_finite_key(base.dtype)).sum(1).tolist()
        for label, count in zip(labels, non_finite, strict=True):
            refuse_non_finite(count, base.numel(), label)
    if all(same == counts[0] for same in counts):
        _drop(values, keys, counts[0])
    else:
        for index, own in enumerate(counts):
            _drop(values[index : index + 1], keys[index : index + 1], own)
    total = torch.zeros_like(values[0])
    for survivors, coefficient in zip(values, weight, strict=True):
        total.add_(survivors.mul_(coefficient))
    return total.mul_(factor).view(base.shape).add_(base).to(base.dtype)


def _drop(values: torch.Tensor, keys: torch.Tensor, counts: SliceCounts) -> None:
    if counts.kept < keys.shape[-1]:
        for indices in dropped(keys, counts):
            values.scatter_(-1, indices, 0)
