"""How the surviving elements of several task vectors combine with the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch

from mergekit_breadcrumbs.selection import Granularity, survivor_mask

# Sums under this are treated as zero rather than divided by, as mergekit does.
_TINY_WEIGHT = 1e-8
_TINY_NORM = 1e-7
_NORM_BLOCK = 4096


def merge_task_vectors(
    base: torch.Tensor,
    finetuned: Sequence[torch.Tensor],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    gamma: Sequence[float],
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = False,
    granularity: Granularity = "tensor",
    elect_sign: bool = False,
    names: Sequence[str] | None = None,
) -> torch.Tensor:
    """Merge fine-tunings of one weight into its base, keeping only the breadcrumbs.

    The result is `base + lambda_ * sum_t weight[t] * survivors[t]`, where
    `survivors[t]` is the task vector `finetuned[t] - base` with its smallest and its
    largest elements set to zero. Weighting and summing are done in float32 (float64 for float64 inputs)
    and rounded once, at the end. Inputs are not modified. Gradients flow to all inputs
    with the choice of survivors taken as constant.

    Args:
        base: the base weight, any shape, floating dtype, any device.
        finetuned: the same weight of each fine-tuned model; shape, dtype and device of
            `base`.
        weight: finite coefficient of each task vector.
        density: fraction kept of each task vector, in [0, 1].
        gamma: fraction of the largest dropped from each, in [0, 1].
        lambda_: finite scale of the summed task vectors.
        normalize: divide by the sum of the weights (of those that agree in sign, with
            `elect_sign`).
        rescale: multiply each model's survivors so that they have the L1 norm of its
            whole task vector.
        granularity: `tensor` ranks the whole tensor, `row` each vector along the last
            dimension.
        elect_sign: per element, keep only the survivors that agree in sign with the
            weighted sum (`breadcrumbs_ties`).
        names: what to call each model in an error message.

    Returns:
        Tensor of `base`'s shape, dtype and device.

    Raises:
        ValueError: if a value is out of range or a task vector is not finite.

    Example:
        >>> base = torch.zeros(4)
        >>> tuned = torch.tensor([0.1, 1.0, -2.0, 9.0])
        >>> merge_task_vectors(
        ...     base, [tuned], weight=[0.5], density=[0.5], gamma=[0.25]
        ... )
        tensor([ 0.0000,  0.5000, -1.0000,  0.0000])

    Source: arXiv 2312.06795; sign election from arXiv 2306.01708.
    """
    if not finetuned:
        return base
    work = torch.float64 if base.dtype == torch.float64 else torch.float32
    parts = []
    for index, tuned in enumerate(finetuned):
        delta = tuned - base
        try:
            mask = survivor_mask(
                delta,
                density=density[index],
                gamma=gamma[index],
                granularity=granularity,
            )
        except ValueError as error:
            name = names[index] if names else f"task vector {index}"
            raise ValueError(f"{name}: {error}") from None
        delta = delta.to(work)
        survivors = torch.where(mask, delta, 0)
        coefficient = delta.new_tensor(weight[index])
        if rescale:
            coefficient = coefficient * _norm_ratio(delta, survivors)
        parts.append(survivors * coefficient)
    total, divisor = _sum(parts), base.new_tensor(math.fsum(weight), dtype=work)
    if elect_sign:
        positive = total.detach() >= 0
        agrees = [torch.where(positive, part > 0, part < 0) for part in parts]
        total = _sum([torch.where(a, p, 0) for a, p in zip(agrees, parts, strict=True)])
        divisor = _sum([a.to(work) * w for a, w in zip(agrees, weight, strict=True)])
    if normalize:
        total = total / torch.where(divisor.abs() < _TINY_WEIGHT, 1, divisor)
    return (base.to(work) + lambda_ * total).to(base.dtype)


def _sum(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Add in the order given, so that every element sees the same roundings."""
    return reduce(torch.add, parts)


def _norm_ratio(delta: torch.Tensor, survivors: torch.Tensor) -> torch.Tensor:
    """`||delta||_1 / ||survivors||_1`, or 1 where either is next to nothing."""
    before, after = _l1_norm(delta), _l1_norm(survivors)
    tiny = (before < _TINY_NORM) | (after < _TINY_NORM)
    return torch.where(tiny, 1, before / torch.where(tiny, 1, after)).to(delta.dtype)


def _l1_norm(tensor: torch.Tensor) -> torch.Tensor:
    """Sum the magnitudes in float64, in blocks so small that no thread count matters.

    torch divides one long sum among its threads, which changes the roundings; it never
    divides a short one.
    """
    sums = tensor.abs().reshape(-1)
    while sums.numel() > _NORM_BLOCK:
        whole = sums.numel() // _NORM_BLOCK * _NORM_BLOCK
        blocks = sums[:whole].view(-1, _NORM_BLOCK).sum(1, dtype=torch.float64)
        sums = torch.cat([blocks, sums[whole:].sum(dtype=torch.float64).view(1)])
    return sums.sum(dtype=torch.float64)
