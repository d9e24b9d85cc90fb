"""The dtype in which a weight is merged, without delay where it is the inputs' own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.dtype import align_dtype


def aligned(group: TensorGroup, dtype: torch.dtype | None) -> TensorGroup:
    """Return the group with all tensors in a dtype, which nearly always they have."""
    if {entry.tensor.dtype for entry in group.entries} == {dtype}:
        return group
    return align_dtype(group, dtype)


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Have torch compute in the dtypes of its inputs, as mergekit has all methods do.

    Nearly always it is off, and to turn it off again would take a few microseconds.
    """
    try:
        on = torch.is_autocast_enabled(device)
    except TypeError:  # before torch 2.4, which takes no device
        on = True
    return torch.autocast(device, enabled=False) if on else nullcontext()
