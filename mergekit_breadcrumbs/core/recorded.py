"""Merging where autograd records: gradients flow, and memory is not spared."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mergekit_breadcrumbs.core.selection import Granularity, survivor_mask
from mergekit_breadcrumbs.core.summation import TINY_WEIGHT, Summation, work_dtype


def merge_recorded(
    base: torch.Tensor,
    finetuned: Sequence[torch.Tensor],
    fractions: Sequence[tuple[float, float]],
    granularity: Granularity,
    how: Summation,
) -> torch.Tensor:
    """Do what merging in chunks does, to the bit, in steps that autograd records.

    Takes what `merge_task_vectors` takes, with `how` to sum.
    """
    work = work_dtype(base.dtype)
    total = torch.zeros_like(base, dtype=work)
    parts = []
    for tuned, (density, gamma), weight, scaled in zip(
        finetuned, fractions, how.weight, how.scaled, strict=True
    ):
        delta = tuned - base
        mask = survivor_mask(
            delta, density=density, gamma=gamma, granularity=granularity
        )
        delta = delta.to(work)
        survivors = torch.where(mask, delta, 0)
        part = survivors * scaled
        if scaled != weight:
            # Scaled, because a norm may be over any float64.
            before, after = (
                x.double().mul(2.0**-64).abs().sum() for x in (delta, survivors)
            )
            ratio = before / after
            part = part * (ratio / ratio.detach())  # 1, but with the ratio's gradient
        parts.append(part)
        total = total + part
    factor: float | torch.Tensor = how.factor()
    if how.elect_sign:
        positive, total = total >= 0, torch.zeros_like(total)
        divisor = torch.zeros_like(total)
        for part, weight in zip(parts, how.weight, strict=True):
            agrees = torch.where(positive, part > 0, part < 0)
            total = total + torch.where(agrees, part, 0)
            divisor = divisor + agrees.to(work) * weight
        if how.normalize:
            total = total / torch.where(divisor.abs() < TINY_WEIGHT, 1, divisor)
        factor = how.lambda_
    return (total * factor + base.to(work)).to(base.dtype)
