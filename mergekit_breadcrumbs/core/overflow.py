"""Refusing a merged tensor whose numbers have become too large for its dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from mergekit_breadcrumbs.core.keys import (
    key_value,
    magnitude_keys,
    non_finite_key,
    value_key,
)
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
        merged: any shape, floating dtype.
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
    label = _label((names[index] for index in chosen), tensor)
    remedy = "make these smaller"
    if merged.dtype == torch.float16:
        remedy += ", or merge in bfloat16 or float32"
    raise ValueError(
        f"the merged tensor must be finite; {count} of {merged.numel()} elements are"
        f" too large for {_name(merged.dtype)} ({label}), with"
        f" {_settings(how, chosen)}: {remedy}"
    )


def refuse_cast(
    merged: torch.Tensor, dtype: torch.dtype, names: Sequence[str], tensor: str | None
) -> None:
    """Raise ValueError if an element is too large for the dtype it is to be cast to."""
    count = count_non_finite(merged, dtype)
    # What is not finite as it is, such as a mask that the base has, stays the same.
    if count and (count := count - count_non_finite(merged)):
        raise ValueError(
            f"the merged tensor must be finite; {count} of {merged.numel()} elements"
            f" are too large for out_dtype {_name(dtype)} ({_label(names, tensor)}):"
            " leave out_dtype out, or choose bfloat16 or float32"
        )


def count_non_finite(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> int:
    """Return how many elements of a tensor are not finite.

    With `dtype`, how many would not be after being rounded to it.

    Example:
        >>> count_non_finite(torch.tensor([1.0, torch.inf, torch.nan]))
        2
        >>> count_non_finite(torch.tensor([1.0, 65519.0, 65520.0]), torch.float16)
        1
    """
    flat, top = tensor.detach().reshape(-1), non_finite_key(tensor.dtype)
    if dtype is not None and dtype != tensor.dtype:
        top = _rounded_up_key(tensor.dtype, dtype)
    workspace = Workspace(tensor.device, tensor.numel())

    def count(chunk: tuple[int, int]) -> int:
        keys = magnitude_keys(flat[slice(*chunk)])
        return int((keys >= top).sum()) if int(keys.amax()) >= top else 0

    return sum(workspace.map(count, split(len(flat), workspace.chunk("merge"))))


def _rounded_up_key(of: torch.dtype, to: torch.dtype) -> int:
    """Return the first key of a wide dtype that is infinite in a narrow one."""
    info = torch.finfo(to)
    if info.max >= torch.finfo(of).max:
        return non_finite_key(of)
    # Half way between the largest number and the next, if there were one.
    first = info.max + info.max / (2 - info.eps) * info.eps / 2
    key = value_key(first, of)
    return key if key_value(key, of) == first else key + 1


def _label(names: Iterable[str], tensor: str | None) -> str:
    return ", ".join([*names, *([f"tensor {tensor}"] if tensor else [])])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
