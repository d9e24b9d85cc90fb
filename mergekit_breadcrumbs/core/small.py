"""Merging a small weight, the task vectors of all models at once.

A norm or a bias has so few elements that the number of steps is what takes time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

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
    if bits.ndim != 2:  # a norm's or a bias's is 2
        bits = bits.view(len(bits), -1)
    if len(set(counts)) == 1:
        largest = int(drop_short(bits, counts[0].small, counts[0].kept))
    else:
        largest = max(
            int(drop_short(own.view(1, -1), of.small, of.kept))
            for own, of in zip(bits, counts, strict=True)
        )
    if largest >= non_finite_key(base.dtype):
        keys = magnitude_keys(_deltas(base, finetuned), overwrite=True)
        non_finite = (keys >= non_finite_key(base.dtype)).view(len(keys), -1).sum(1)
        for name, count in zip(names, non_finite.tolist(), strict=True):
            refuse_non_finite(count, base.numel(), name, tensor)
    zero, column = _factors(
        tuple(weight), work_dtype(base.dtype), base.device, base.ndim
    )
    # With zero added, of no element is -0 left.
    total, *others = torch.addcmul(zero, deltas, column).unbind()
    for survivors in others:
        total.add_(survivors)
    if factor != 1:
        total.mul_(factor)
    return total.add_(base).to(base.dtype), largest


@lru_cache(maxsize=256)  # most tensors of a merge have the same weights
def _factors(
    weight: tuple[float, ...], dtype: torch.dtype, device: torch.device, ndim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a zero, and the weights, [models, 1, ...] with `ndim` ones."""
    with torch.inference_mode(False):  # else of no use outside that mode
        column = torch.tensor(weight, dtype=dtype, device=device)
        return column.new_zeros(()), column.view(-1, *[1] * ndim)


def _deltas(base: torch.Tensor, finetuned: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the task vectors, [models, ...]."""
    return _stack(list(finetuned)).sub_(base)


def _stack(tensors: list[torch.Tensor]) -> torch.Tensor:
    try:
        return torch.stack(tensors)
    except RuntimeError:  # so autocast, where it is on, refuses some 16-bit dtypes
        with torch.autocast(tensors[0].device.type, enabled=False):
            return torch.stack(tensors)
