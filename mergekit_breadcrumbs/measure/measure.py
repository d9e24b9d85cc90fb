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
from mergekit_breadcrumbs.measure.squares import square_sum
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
    length = slice_length(base, granularity)
    workspace = Workspace(base.device, base.numel(), length)
    vectors = [
        TaskVector(base, tuned, slice_counts(length, *pair), granularity, workspace)
        for tuned, *pair in zip(finetuned, density, gamma, strict=True)
    ]
    signs = [0.0] * len(vectors)
    if len(vectors) > 1:  # else nobody is met
        signs = [math.copysign(1, each) if each else 0.0 for each in weight]
    tallies, meetings, base_square = _look_at(base, vectors, signs, workspace)
    for index, vector in enumerate(vectors):
        label = names[index] if names else f"task vector {index}"
        refuse_non_finite(vector.non_finite(), base.numel(), label)
    return Measured([tally.result() for tally in tallies], meetings, base_square)


def _look_at(
    base: torch.Tensor,
    vectors: Sequence[TaskVector],
    signs: Sequence[float],
    workspace: Workspace,
) -> tuple[Sequence[Tally], Meetings, float]:
    """Return what becomes of the vectors, how they meet, and the base's square."""
    if vectors and workspace.is_short(vectors[0].length):
        return _look_at_short(base, vectors, signs, workspace)
    flat = flattened(base)
    tallies, meetings = _look_at_long(vectors, signs, workspace)

    def square(chunk: tuple[int, int]) -> float:
        return square_sum(read(flat, *chunk), workspace)

    chunks = split(base.numel(), workspace.chunk("norm"))
    return tallies, meetings, math.fsum(workspace.map(square, chunks))


def _look_at_short(
    base: torch.Tensor,
    vectors: Sequence[TaskVector],
    signs: Sequence[float],
    workspace: Workspace,
) -> tuple[Sequence[Tally], Meetings, float]:
    """Look at each chunk once: what it costs is to put it in order."""
    tallies, flat = [TallyByOrder(vector) for vector in vectors], flattened(base)

    def look(chunk: tuple[int, int]) -> tuple[Meetings, float]:
        start, stop = chunk
        meeting = Meeting(workspace, stop - start, vectors[0].work, len(vectors))
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
        met = meeting.result() if any(signs) else added_up(())
        return met, square_sum(read(flat, *chunk), workspace)

    chunks = vectors[0].chunks(workspace.chunk("merge"), workspace.threads)
    looks = list(workspace.map(look, chunks))
    squares = math.fsum(square for _, square in looks)
    return tallies, added_up(met for met, _ in looks), squares


def _look_at_long(
    vectors: Sequence[TaskVector], signs: Sequence[float], workspace: Workspace
) -> tuple[Sequence[Tally], Meetings]:
    tallies: list[TallyByCount | TallyByCompare] = []
    if not vectors:
        return tallies, added_up(())
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
        size = chunk[1] - chunk[0]
        meeting = Meeting(workspace, size, vectors[0].work, len(vectors))
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

    chunks = vectors[0].chunks(workspace.chunk("merge"), workspace.threads)
    return tallies, added_up(workspace.map(meet, chunks) if any(signs) else ())
