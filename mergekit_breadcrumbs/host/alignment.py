"""The dtype in which a weight is merged, without delay where it is the inputs' own.

A norm is merged so fast that a context manager or a copied group would be felt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.dtype import align_dtype


def aligned(group: TensorGroup, dtype: torch.dtype | None) -> TensorGroup:
    """Return the group with all tensors in a dtype, which nearly always they have."""
    if {entry.tensor.dtype for entry in group.entries} == {dtype}:
        return group
    return align_dtype(group, dtype)


def without_autocast(
    merge: Callable[..., torch.Tensor], group: TensorGroup, parameters: dict[str, Any]
) -> torch.Tensor:
    """Merge a group in the dtypes of its inputs, as mergekit has all methods do."""
    device = group.entries[0].tensor.device.type
    try:
        on = torch.is_autocast_enabled(device)
    except TypeError:  # before torch 2.4, which takes no device
        on = True
    if not on:  # as nearly always
        return merge(group, **parameters)
    with torch.autocast(device, enabled=False):
        return merge(group, **parameters)
