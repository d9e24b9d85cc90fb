"""Refusing a merged tensor whose numbers have become too large for its dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from mergekit_breadcrumbs.core.keys import magnitude_keys, non_finite_key
from mergekit_breadcrumbs.core.summation import TINY_WEIGHT, Summation, work_dtype
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.core.workspace import Workspace, split


def refuse_overflow(
    merged: torch.Tensor,
    how: Summation,
    names: Sequence[str],
    tensor: str | None,
    vectors: Callable[[], Sequence[TaskVector]],
) -> None:
    """Look at every element of a merged tensor whose numbers might be too large.

    Args:
        merged: contiguous, of any floating dtype.
        how: what it was merged by.
        names: what to call each model.
        tensor: what to call the tensor, if it has a name.
        vectors: makes the task vectors anew, to find out whose is too large.

    Raises:
        ValueError: if an element is not finite, or the sum of the weights is not.
    """
    count = count_non_finite(merged)
    work = torch.finfo(work_dtype(merged.dtype))
    divides = how.elect_sign and how.normalize
    # Divided by infinity, a sum would vanish and look well.
    if divides and not sum(map(abs, how.weight)) <= work.max:
        count = merged.numel()
    if not count:
        return
    largest = [_largest_survivor(vector) for vector in vectors()]
    alone = [
        index
        for index, value in enumerate(largest)
        if not _fits(how, index, value, torch.finfo(merged.dtype).max, work.max)
    ]
    chosen = alone or range(len(names))
    label = ", ".join([names[index] for index in chosen])
    if tensor:
        label += f", tensor {tensor}"
    dtype = str(merged.dtype).removeprefix("torch.")
    remedy = "make these smaller"
    if merged.dtype == torch.float16:
        remedy += ", or merge in bfloat16 or float32"
    raise ValueError(
        f"the merged tensor must be finite; {count} of {merged.numel()} elements are"
        f" too large for {dtype} ({label}), with {_settings(how, chosen)}: {remedy}"
    )


def count_non_finite(tensor: torch.Tensor) -> int:
    """Return how many elements of a contiguous tensor are not finite.

    Example:
        >>> count_non_finite(torch.tensor([1.0, torch.inf, torch.nan]))
        2
    """
    flat, top = tensor.detach().view(-1), non_finite_key(tensor.dtype)
    workspace = Workspace(tensor.device, tensor.numel())

    def count(chunk: tuple[int, int]) -> int:
        keys = magnitude_keys(flat[slice(*chunk)])
        return int((keys >= top).sum()) if int(keys.amax()) >= top else 0

    return sum(workspace.map(count, split(len(flat), workspace.chunk("merge"))))


def _largest_survivor(vector: TaskVector) -> float:
    chunks = vector.chunks(1 << 18)
    return max((float(vector.survivors(*c).abs().amax()) for c in chunks), default=0.0)


def _fits(
    how: Summation, index: int, largest: float, most: float, most_in_sum: float
) -> bool:
    """Whether what one model adds is finite by itself."""
    weight, coefficient = abs(how.weight[index]), abs(how.scaled[index])
    factor, part = abs(how.lambda_), coefficient * largest
    if not how.elect_sign:
        factor = abs(how.factor())
    elif how.normalize and weight >= TINY_WEIGHT:
        part /= weight
    return (
        coefficient <= most_in_sum
        and factor <= most_in_sum
        and coefficient * largest <= most_in_sum
        and part * factor <= most
    )


def _settings(how: Summation, chosen: Sequence[int]) -> str:
    """Say what the survivors of some models were multiplied and divided by."""
    weights = " and ".join(dict.fromkeys(f"{how.weight[i]:g}" for i in chosen))
    parts = [f"weight {weights}"]
    ratios = dict.fromkeys(
        f"{how.scaled[i] / how.weight[i]:g}"
        for i in chosen
        if how.scaled[i] != how.weight[i] and how.weight[i]
    )
    if ratios:
        parts.append(f"rescale by {' and '.join(ratios)}")
    if how.normalize:
        parts.append("normalize")
    parts.append(f"lambda {how.lambda_:g}")
    return ", ".join(parts)
