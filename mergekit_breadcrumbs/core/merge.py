"""How the surviving elements of several task vectors combine with the base."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from mergekit_breadcrumbs.core.flat import flattened, read
from mergekit_breadcrumbs.core.overflow import refuse_overflow
from mergekit_breadcrumbs.core.recorded import merge_recorded
from mergekit_breadcrumbs.core.selection import (
    Granularity,
    refuse_non_finite,
    slice_counts,
    slice_length,
)
from mergekit_breadcrumbs.core.small import merge_small
from mergekit_breadcrumbs.core.stored import Stored
from mergekit_breadcrumbs.core.stored_vector import StoredVector
from mergekit_breadcrumbs.core.summation import (
    TINY_WEIGHT,
    Summation,
    safe_key,
)
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.core.workspace import Workspace, are_few, on_equal_terms


def merge_task_vectors(
    base: torch.Tensor,
    finetuned: Sequence[torch.Tensor | Stored],
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
    tensor: str | None = None,
) -> torch.Tensor:
    """Merge fine-tunings of one weight into its base, keeping only the breadcrumbs.

    The result is `base + lambda_ * sum_t weight[t] * survivors[t]`, where
    `survivors[t]` is the task vector `finetuned[t] - base` with its smallest and its
    largest elements set to zero. Weighting and summing are done in float32 (float64 for
    float64 inputs) and rounded once, at the end. Inputs are not modified, and beside
    the result little more than a few chunks of memory is taken. Gradients, where they
    are recorded, flow to all inputs with the choice of survivors taken as constant.

    Args:
        base: the base weight, any shape, floating dtype, any device.
        finetuned: the same weight of each fine-tuned model; shape, dtype and device of
            `base`. Or what a breadcrumb file holds of it, if it was made by the same
            granularity and ranked in the dtype of `base`.
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
        tensor: what to call the weight there.

    Returns:
        Tensor of `base`'s shape, dtype and device.

    Raises:
        ValueError: if a value is out of range, a task vector is not finite, or a sum or
            product is too large for its dtype.

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
    names = names or [f"task vector {index}" for index in range(len(finetuned))]
    fractions = list(zip(density, gamma, strict=True))
    how = Summation(tuple(weight), tuple(weight), lambda_, normalize, elect_sign)
    length, elements = slice_length(base, granularity), base.numel()
    records = torch.is_grad_enabled()
    recorded = records and any(
        isinstance(values, torch.Tensor) and values.requires_grad
        for values in (base, *finetuned)
    )
    all_at_once = length == elements and are_few(length * len(finetuned))
    small = all_at_once and not (rescale or elect_sign)
    with torch.no_grad() if records else nullcontext():
        whole = recorded or small
        tensors = [_put_together(base, values) for values in finetuned if whole]
        given = base, tensors or finetuned, fractions, granularity
        if small:
            counts = [slice_counts(length, *pair) for pair in fractions]
            own = base, tensors, counts, weight, how.factor(), names, tensor
            merged, largest = on_equal_terms(base, len(tensors), merge_small, *own)
        else:
            vectors = _task_vectors(*given)
            if rescale:
                how = how.rescaled([vector.rescale_factor() for vector in vectors])
            merged = _merge_in_chunks(base, vectors, how)
            for vector, name in zip(vectors, names, strict=True):
                refuse_non_finite(vector.non_finite(), elements, name, tensor)
            largest = max(vector.largest() for vector in vectors)
        if largest >= safe_key(how, base.dtype):
            refuse_overflow(merged, how, names, tensor, lambda: _task_vectors(*given))
    if not recorded:
        return merged
    return on_equal_terms(
        base, 1, merge_recorded, base, tensors, fractions, granularity, how
    )


def _put_together(base: torch.Tensor, values: torch.Tensor | Stored) -> torch.Tensor:
    return (
        values.put_together(base).to(base.dtype)
        if isinstance(values, Stored)
        else values
    )


def _task_vectors(
    base: torch.Tensor,
    finetuned: Sequence[torch.Tensor | Stored],
    fractions: Sequence[tuple[float, float]],
    granularity: Granularity,
) -> list[TaskVector]:
    length = slice_length(base, granularity)
    workspace = Workspace(base.device, base.numel(), length)

    def vector(of: tuple[torch.Tensor | Stored, tuple[float, float]]) -> TaskVector:
        values, pair = of
        shared = slice_counts(length, *pair), granularity, workspace
        if isinstance(values, Stored):
            return StoredVector(base, values, *shared)
        return TaskVector(base, values, *shared)

    pairs = list(zip(finetuned, fractions, strict=True))
    # Threads take one each, rather than share it, if little is stored of one, or if
    # there are so many that hardly one waits for the others at the end.
    stored = all(isinstance(values, Stored) for values in finetuned)
    enough = workspace.threads * (1 if stored else 4)
    each = workspace.map if len(pairs) >= enough else map
    return list(each(vector, pairs))


def _merge_in_chunks(
    base: torch.Tensor, vectors: Sequence[TaskVector], how: Summation
) -> torch.Tensor:
    merged = torch.empty(base.shape, dtype=base.dtype, device=base.device)
    workspace = vectors[0].workspace
    flat, flat_base, work = merged.view(-1), flattened(base), vectors[0].work
    factor = how.factor()
    stored = [vector for vector in vectors if isinstance(vector, StoredVector)]
    purpose = "stored" if len(stored) == len(vectors) else "merge"
    # A single model, added as it is, gives the same bits without a wider dtype.
    as_it_is = not (stored or how.elect_sign) and how.scaled == (factor,) == (1,)
    # Beside those of any merge, electing signs takes a buffer for each model.
    buffers = 3 + (len(vectors) if how.elect_sign else 0)
    at_most = workspace.chunk(purpose, buffers * work.itemsize // 4)

    def added(start: int, stop: int) -> torch.Tensor:
        """Return what is added to a chunk of the base."""
        if as_it_is:
            return vectors[0].thinned(start, stop)
        total = workspace.memory("total", stop - start, work)
        if how.elect_sign:
            _sum_agreeing(total.zero_(), vectors, start, stop, how, workspace)
            return total
        for index, coefficient in enumerate(how.scaled):
            first = index == 0
            vectors[index].add_to(total, start, stop, coefficient, first=first)
        return total.mul_(factor) if factor != 1 else total

    def merge(chunk: tuple[int, int]) -> None:
        part, own_base = added(*chunk), read(flat_base, *chunk)
        if part.dtype == merged.dtype:
            torch.add(part, own_base, out=read(flat, *chunk))
        else:
            read(flat, *chunk).copy_(part.add_(own_base))

    for vector in stored:
        vector.watch_base()
    for _ in workspace.map(merge, vectors[0].chunks(at_most, workspace.threads)):
        pass
    for vector in stored:
        vector.require_base()
    return merged


def _sum_agreeing(
    total: torch.Tensor,
    vectors: Sequence[TaskVector],
    start: int,
    stop: int,
    how: Summation,
    workspace: Workspace,
) -> None:
    """Add up, in place of zeros, the survivors whose sign is the elected one."""
    size = stop - start
    memory = workspace.memory("parts", len(vectors) * size, total.dtype)
    parts = memory.view(len(vectors), size)
    for part, vector, coefficient in zip(parts, vectors, how.scaled, strict=True):
        total.add_(torch.mul(vector.survivors(start, stop), coefficient, out=part))
    # +1 where the sum is positive or zero, -1 where it is negative.
    sign = workspace.memory("sign", size, total.dtype).copy_(total)
    sign.sign_().mul_(2).add_(1).sign_()
    total.zero_()
    divisor = workspace.memory("divisor", size, total.dtype).zero_()
    for part, weight in zip(parts, how.weight, strict=True):
        total.add_(part.mul_(sign).relu_())
        if how.normalize:
            divisor.add_(part.sign_().mul_(weight))
    if how.normalize:
        total.div_(divisor.masked_fill_(divisor.abs() < TINY_WEIGHT, 1))
    total.mul_(sign).mul_(how.lambda_)
