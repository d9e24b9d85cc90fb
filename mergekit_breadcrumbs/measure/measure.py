"""What the cuts do to the task vectors of one weight, counted and summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from mergekit_breadcrumbs.core.selection import (
    Granularity,
    refuse_non_finite,
    slice_counts,
    slice_length,
)
from mergekit_breadcrumbs.core.task_vector import TaskVector, flattened, read
from mergekit_breadcrumbs.core.workspace import Workspace, split
from mergekit_breadcrumbs.measure.meetings import Meetings, Tally, find_meetings
from mergekit_breadcrumbs.measure.tally_by_compare import TallyByCompare
from mergekit_breadcrumbs.measure.tally_by_count import Tallied, TallyByCount
from mergekit_breadcrumbs.measure.tally_by_order import TallyByOrder


class Measured(NamedTuple):
    """What becomes of all task vectors of one weight, and how they meet."""

    vectors: list[Tallied]
    meetings: Meetings
    base_square: float


@torch.no_grad()
def measure(
    base: torch.Tensor,
    finetuned: Sequence[torch.Tensor],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    gamma: Sequence[float],
    granularity: Granularity = "tensor",
    names: Sequence[str] | None = None,
) -> Measured:
    """Count and weigh what a merge would keep and drop of one weight.

    Takes what `merge_task_vectors` takes; of a weight only the sign matters here.

    Returns:
        Per task vector how many elements are exactly zero, small, kept and large, the
        sums of their squares, the cuts and the histogram; then how they meet.

    Raises:
        ValueError: if a fraction is out of range or a task vector is not finite.

    Example:
        >>> [vector] = measure(
        ...     torch.zeros(4),
        ...     [torch.tensor([0.1, 1.0, -2.0, 9.0])],
        ...     weight=[1], density=[0.5], gamma=[0.25],
        ... ).vectors
        >>> vector.counts, vector.squares.kept
        (Counts(small=1, kept=2, large=1), 5.0)
        >>> vector.lower_cut
        Cut(lowest=1.0, highest=1.0, ties=1, ties_kept=1)
    """
    workspace = Workspace(base.device, base.numel())
    length = slice_length(base, granularity)
    vectors = [
        TaskVector(base, tuned, slice_counts(length, *pair), granularity, workspace)
        for tuned, *pair in zip(finetuned, density, gamma, strict=True)
    ]
    tallies = [_tally(vector, workspace) for vector in vectors]
    # A pass for each is faster than one for all: what it needs stays in the cache.
    for vector, tally in zip(vectors, tallies, strict=True):
        count: Callable[..., Any] = tally.count
        for part in workspace.map(count, vector.chunks(workspace.chunk("count"))):
            tally.add(part)
    meetings = find_meetings(vectors, tallies, weight, workspace)
    for index, vector in enumerate(vectors):
        label = names[index] if names else f"task vector {index}"
        refuse_non_finite(vector.non_finite(), base.numel(), label)
    results = [tally.result() for tally in tallies]
    return Measured(results, meetings, _square_sum(base, workspace))


def _tally(vector: TaskVector, workspace: Workspace) -> Tally:
    if not vector.cuts:
        return TallyByOrder(vector)
    whole = vector.length == vector.elements
    if whole and vector.dtype.itemsize == 2:
        return TallyByCount(vector)
    return TallyByCompare(vector, workspace)


def _square_sum(values: torch.Tensor, workspace: Workspace) -> float:
    flat = flattened(values)

    def square(chunk: tuple[int, int]) -> float:
        part = read(flat, *chunk)
        return float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2

    chunks = split(values.numel(), workspace.chunk("norm"))
    return math.fsum(workspace.map(square, chunks))
