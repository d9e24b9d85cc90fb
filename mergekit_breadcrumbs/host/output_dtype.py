"""The dtype in which a merged tensor is written, where it is not the merge's own.

A library call tells a method, and so does `mergekit-pytorch`. With a config the cast is
left to a task that no method sees; there the planner is asked, when it checks a
method's inputs at the beginning of a merge.
"""

from __future__ import annotations

import torch
from mergekit.common import dtype_from_name
from mergekit.merge_methods.base import TensorGroup

from mergekit_breadcrumbs.core.overflow import refuse_cast
from mergekit_breadcrumbs.host.caller import calling_planner


class _Planned:
    """The `out_dtype` of the config that was planned last."""

    name: str | None = None


def note_planned() -> None:
    """Remember what the planner that is calling is to write, nothing if none is."""
    config = getattr(calling_planner(), "config", None)
    _Planned.name = getattr(config, "out_dtype", None)


def forget_planned() -> None:
    """Have nothing but what a method is told count."""
    _Planned.name = None


def written_dtype(told: torch.dtype | None) -> torch.dtype | None:
    """Return what a merged tensor is cast to, if to anything.

    `told` is what the method was told, if anything; else the config's counts.
    """
    out: torch.dtype | None = told or dtype_from_name(_Planned.name)
    return out


def refuse_too_narrow(
    merged: torch.Tensor, out: torch.dtype, group: TensorGroup
) -> None:
    """Refuse a tensor that is finite, but would not be as it is written."""
    if torch.finfo(out).max < torch.finfo(merged.dtype).max:
        names = [f"model {entry.id}" for entry in group.non_base]
        refuse_cast(merged, out, names, group.metadata.name)
