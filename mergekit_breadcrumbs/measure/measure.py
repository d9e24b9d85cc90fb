"""What the cuts do to the task vectors of one weight, counted and summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from mergekit_breadcrumbs.core.flat import flattened, read
from mergekit_breadcrumbs.core.keys import bits_of, magnitude_keys
from mergekit_breadcrumbs.core.selection import (
    Granularity,
    refuse_non_finite,
    slice_counts,
    slice_length,
)
from mergekit_breadcrumbs.core.short_slices import drop_small
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.core.workspace import Workspace, split
from mergekit_breadcrumbs.measure.meetings import (
    Meeting,
    Meetings,
    added_up,
    as_array,
    positions,
)
from mergekit_breadcrumbs.measure.tally_by_compare import TallyByCompare
from mergekit_breadcrumbs.measure.tally_by_count import Tallied, TallyByCount
from mergekit_breadcrumbs.measure.tally_by_order import TallyByOrder

Tally = TallyByCount | TallyByCompare | TallyByOrder


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
    signs = [0.0] * len(vectors)
    if len(vectors) > 1:  # else nobody is met
        signs = [math.copysign(1, each) if each else 0.0 for each in weight]
    tallies, meetings = _look_at(vectors, signs, workspace)
    for index, vector in enumerate(vectors):
        label = names[index] if names else f"task vector {index}"
        refuse_non_finite(vector.non_finite(), base.numel(), label)
    results = [tally.result() for tally in tallies]
    return Measured(results, meetings, _square_sum(base, workspace))


def _look_at(
    vectors: Sequence[TaskVector], signs: Sequence[float], workspace: Workspace
) -> tuple[Sequence[Tally], Meetings]:
    if not vectors:
        return [], added_up(())
    short = workspace.is_short(vectors[0].length)
    return (_look_at_short if short else _look_at_long)(vectors, signs, workspace)


def _look_at_short(
    vectors: Sequence[TaskVector], signs: Sequence[float], workspace: Workspace
) -> tuple[Sequence[Tally], Meetings]:
    """Look at each chunk once: what it costs is to put it in order."""
    tallies = [TallyByOrder(vector) for vector in vectors]

    def look(chunk: tuple[int, int]) -> Meetings:
        start, stop = chunk
        meeting = Meeting(workspace, stop - start, vectors[0].work)
        for vector, tally, sign in zip(vectors, tallies, signs, strict=True):
            delta, (small, kept, large) = vector.delta(*chunk), vector.counts
            bits = bits_of(delta).view(-1, vector.length)
            keys = workspace.memory("ordered", stop - start, bits.dtype).view_as(bits)
            where = drop_small(bits, small, kept, keys)
            tally.count(start, keys)
            if sign and large:
                meeting.add_large(delta, where, sign)
                delta.index_fill_(0, where, 0)
            if sign:
                meeting.add(delta, sign)
        return meeting.result() if any(signs) else added_up(())

    chunks = vectors[0].chunks(workspace.chunk("merge"))
    return tallies, added_up(workspace.map(look, chunks))


def _look_at_long(
    vectors: Sequence[TaskVector], signs: Sequence[float], workspace: Workspace
) -> tuple[Sequence[Tally], Meetings]:
    tallies: list[TallyByCount | TallyByCompare] = []
    # A pass for each is faster than one for all: what it needs stays in the cache.
    for vector in vectors:
        whole = vector.length == vector.elements
        by_count = whole and vector.dtype.itemsize == 2
        tally = TallyByCount(vector) if by_count else TallyByCompare(vector, workspace)
        count: Callable[..., Any] = tally.count
        for part in workspace.map(count, vector.chunks(workspace.chunk("count"))):
            tally.add(part)
        tallies.append(tally)

    def meet(chunk: tuple[int, int]) -> Meetings:
        meeting = Meeting(workspace, chunk[1] - chunk[0], vectors[0].work)
        for vector, tally, sign in zip(vectors, tallies, signs, strict=True):
            if sign:
                survivors = vector.survivors(*chunk)
                meeting.add(survivors, sign)
                if vector.counts.large:
                    delta = vector.delta(*chunk)
                    keys = as_array(magnitude_keys(delta))
                    where = positions(keys >= tally.upper_key(chunk))
                    # Of those as large as the cut, some may survive.
                    where = where[survivors[where] == 0]
                    meeting.add_large(delta, where, sign)
        return meeting.result()

    chunks = vectors[0].chunks(workspace.chunk("merge"))
    return tallies, added_up(workspace.map(meet, chunks) if any(signs) else ())


def _square_sum(values: torch.Tensor, workspace: Workspace) -> float:
    flat = flattened(values)

    def square(chunk: tuple[int, int]) -> float:
        part = read(flat, *chunk)
        return float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2

    chunks = split(values.numel(), workspace.chunk("norm"))
    return math.fsum(workspace.map(square, chunks))
