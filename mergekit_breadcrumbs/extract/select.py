"""What of one fine-tuned weight goes into a breadcrumb file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import bits_of
from mergekit_breadcrumbs.core.norms import NORM_SCALES
from mergekit_breadcrumbs.core.positions import Positions
from mergekit_breadcrumbs.core.positions_builder import PositionsBuilder
from mergekit_breadcrumbs.core.selection import (
    Granularity,
    refuse_non_finite,
    slice_length,
)
from mergekit_breadcrumbs.core.stored import (
    as_text,
    checksum_part,
    sampled_part,
    top_counts,
)
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.core.workspace import Workspace, split


class Selected(NamedTuple):
    """What is stored of a weight, and what it is of the whole.

    `norm` is None where the task vector is not finite; `changed` is how many elements
    differ; the squares are the sums of those of the task vector's elements.
    """

    positions: Positions
    values: torch.Tensor
    ranked_in: torch.dtype | None
    norm: float | None
    norm_scale: float
    checksum: str
    changed: int
    square: float
    stored_square: float


class _Part(NamedTuple):
    local: torch.Tensor
    start: int
    checksum: int
    stored_square: float


def ranking_dtype(
    base: torch.dtype, finetuned: torch.dtype, wanted: torch.dtype | None
) -> torch.dtype | None:
    """Return the dtype in which mergekit forms the task vector; None for integers."""
    if not (base.is_floating_point and finetuned.is_floating_point):
        return None
    return wanted or torch.promote_types(base, finetuned)


@torch.no_grad()
def select(
    base: torch.Tensor,
    finetuned: torch.Tensor,
    *,
    fraction: float,
    granularity: Granularity = "tensor",
    dtype: torch.dtype | None = None,
    names: tuple[str, str] = ("the fine-tuned model", "the tensor"),
) -> Selected:
    """Choose the elements that changed the most, or all that changed.

    Args:
        base: the base's weight, any shape, on the CPU.
        finetuned: the fine-tuned one, of the same shape.
        fraction: of each slice, in (0, 1]; with 1, every element whose bits differ.
        granularity: `tensor` ranks the whole weight, `row` each vector along the last
            dimension.
        dtype: in which task vectors are formed and ranked; by default the one to which
            the two promote. Integers are not ranked: all that differ are chosen.
        names: what to call model and tensor in an error.

    Returns:
        Values are in the dtype of `finetuned`, or in the one of the ranking where that
        is narrower.

    Raises:
        ValueError: if the task vector is not finite and `fraction` is not 1.

    Example:
        >>> base, finetuned = torch.zeros(5), torch.tensor([0.0, 3.0, -1.0, 0.5, -4.0])
        >>> chosen = select(base, finetuned, fraction=0.4)
        >>> chosen.positions.between(0, 5)[1], chosen.values
        (tensor([1, 4]), tensor([ 3., -4.]))
    """
    ranked = ranking_dtype(base.dtype, finetuned.dtype, dtype)
    old, new = base.reshape(-1), finetuned.reshape(-1)
    kept = new
    if ranked is not None:
        old, new = old.to(ranked), new.to(ranked)
        if torch.promote_types(finetuned.dtype, ranked) != ranked:
            kept = new  # rounded, as it was for the ranking
    workspace = Workspace(old.device, old.numel())
    vector = None
    if ranked is not None:
        counts = top_counts(slice_length(base, granularity), fraction)
        shaped = old.view(base.shape), new.view(base.shape)
        vector = TaskVector(*shaped, counts, granularity, workspace)
    builder, values, parts = PositionsBuilder(old.numel()), [], []
    for part in _parts(old, new, vector if fraction < 1 else None, workspace):
        builder.add(part.local + part.start)
        values.append(kept[part.start :].index_select(0, part.local))
        parts.append(part._replace(local=part.local[:0]))
    if vector is not None and fraction < 1:
        model, tensor = names
        refuse_non_finite(vector.non_finite(), old.numel(), f"model {model}", tensor)
    norm, scale = _norm(vector)
    kept_square = math.fsum(part.stored_square for part in parts)
    changed, square = _changes(old, new, vector, workspace)
    return Selected(
        positions=builder.finish(),
        values=torch.cat(values) if values else kept[:0].clone(),
        ranked_in=ranked,
        norm=norm,
        norm_scale=scale,
        checksum=as_text(sum(part.checksum for part in parts)),
        changed=changed,
        square=square,
        stored_square=kept_square if fraction < 1 else square,
    )


def _parts(
    old: torch.Tensor,
    new: torch.Tensor,
    vector: TaskVector | None,
    workspace: Workspace,
) -> Iterator[_Part]:
    """Choose, chunk by chunk; without a task vector, everything that differs."""

    def choose(chunk: tuple[int, int]) -> _Part:
        start, stop = chunk
        before, square = old[start:stop], 0.0
        if vector is None:
            local = _differ(before, new[start:stop]).nonzero().view(-1)
        else:
            survivors = vector.survivors(start, stop)
            local, square = survivors.nonzero().view(-1), _square(survivors)
        checksum = checksum_part(before.index_select(0, local), local, start)
        return _Part(local, start, checksum + sampled_part(before, start), square)

    at_most = workspace.chunk("merge")
    chunks = split(old.numel(), at_most) if vector is None else vector.chunks(at_most)
    return iter(workspace.map(choose, chunks))


def _differ(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return bits_of(old) != bits_of(new)


def _square(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def _norm(vector: TaskVector | None) -> tuple[float | None, float]:
    if vector is None:
        return None, 1.0
    for scale in NORM_SCALES:
        norm = vector.norm(scale)
        if math.isfinite(norm):
            return norm, scale
    return None, 1.0


def _changes(
    old: torch.Tensor,
    new: torch.Tensor,
    vector: TaskVector | None,
    workspace: Workspace,
) -> tuple[int, float]:
    """Return how many elements differ, and the sum of the squares of the changes."""

    def look(chunk: tuple[int, int]) -> tuple[int, float]:
        start, stop = chunk
        changed = int(_differ(old[start:stop], new[start:stop]).sum())
        return changed, _square(vector.delta(start, stop)) if vector else 0.0

    chunks = split(old.numel(), workspace.chunk("norm"))
    counted = list(workspace.map(look, chunks))
    return sum(c for c, _ in counted), math.fsum(s for _, s in counted)
