"""Counts and sums over one task vector, taken chunk by chunk.

In a 16-bit dtype there are so few magnitudes that counting each tells everything: what
is small, kept or large follows from the ranks alone. For the others, see `splitting`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import magnitude_keys
from mergekit_breadcrumbs.core.selection import Counts
from mergekit_breadcrumbs.core.task_vector import ChunkedTaskVector, flattened, read
from mergekit_breadcrumbs.core.workspace import Workspace

BINS_PER_OCTAVE = 4
"""Bins of the histograms that are reported, for each doubling of the magnitude."""

SMALL, KEPT, LARGE = range(3)
LOWER, UPPER = range(2)


class Cut(NamedTuple):
    """Where slices are cut: magnitudes over all slices, and elements that share them.

    The lower cut is at the first element that is not small, the upper one at the first
    that is large; there is none where all of a slice, or nothing, is dropped there.
    `ties` counts the elements as large as their slice's cut, `ties_kept` the survivors
    among them.
    """

    lowest: float
    highest: float
    ties: int
    ties_kept: int


class Histogram(NamedTuple):
    """How many elements of each fate have a magnitude in each quarter of an octave.

    The first bin starts at `2 ** (first / BINS_PER_OCTAVE)`; zeros are in no bin.
    """

    first: int
    fates: tuple[list[int], list[int], list[int]]


class Figures(NamedTuple):
    """What becomes of one task vector of one weight."""

    zero: int
    counts: Counts
    squares: tuple[float, float, float]
    lower: Cut | None
    upper: Cut | None
    histogram: Histogram


class Task(NamedTuple):
    """What is tallied, and what with; `counts` are those of each slice."""

    base: torch.Tensor
    finetuned: torch.Tensor
    vector: ChunkedTaskVector
    counts: Counts
    workspace: Workspace

    def delta(self, start: int, stop: int) -> torch.Tensor:
        """Return a chunk of the task vector, in memory that the next one overwrites."""
        memory = self.workspace.memory("tallied", stop - start, self.base.dtype)
        finetuned, base = flattened(self.finetuned), flattened(self.base)
        return torch.sub(
            read(finetuned, start, stop), read(base, start, stop), out=memory
        )


class HistogramTally:
    """Tally of a 16-bit task vector that is ranked as a whole."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._keys = torch.zeros(1 << 15, dtype=torch.long, device=task.base.device)

    needs_survivors = False

    def look(
        self, start: int, stop: int, survivors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what a chunk of the vector's plan adds; any thread may ask."""
        keys = magnitude_keys(self._task.delta(start, stop), overwrite=True)
        return torch.bincount(keys, minlength=len(self._keys))

    def take(self, counts: torch.Tensor) -> None:
        """Take what `look` returned into account."""
        self._keys += counts

    def figures(self) -> Figures:
        """Return what all chunks add up to."""
        keys = self._keys.nonzero()[:, 0]
        count = self._keys[keys]
        values = keys.short().view(self._task.base.dtype).double()
        (small, kept, large), length = self._task.counts, self._task.base.numel()
        upto = count.cumsum(0)
        below = upto - count
        first = (upto.clamp(max=small) - below).clamp(min=0)
        last = (upto - below.clamp(min=small + kept)).clamp(min=0)
        fates = torch.stack([first, count - first - last, last])
        squares = (fates * values.square()).sum(1).tolist()
        cuts = [_only_cut(fates, values, upto, rank) for rank in (small, small + kept)]
        return Figures(
            int(self._keys[0]),
            self._task.counts,
            (squares[SMALL], squares[KEPT], squares[LARGE]),
            cuts[LOWER] if 0 < small < length else None,
            cuts[UPPER] if 0 < large < length else None,
            in_bins(fates, values),
        )


def _only_cut(
    fates: torch.Tensor, values: torch.Tensor, upto: torch.Tensor, rank: int
) -> Cut | None:
    """Return the cut at the element of this rank, given values in ascending order."""
    at = int(torch.searchsorted(upto, rank, right=True))
    if at == len(values):
        return None
    value = float(values[at])
    return Cut(value, value, int(fates[:, at].sum()), int(fates[KEPT, at]))


def in_bins(fates: torch.Tensor, values: torch.Tensor) -> Histogram:
    """Gather counts by value in bins that do not depend on the dtype."""
    used = (fates.sum(0) > 0) & (values > 0)
    if not used.any():
        return Histogram(0, ([], [], []))
    bins = (values[used].log2() * BINS_PER_OCTAVE).floor().long()
    first, last = int(bins[0]), int(bins[-1])
    gathered = fates.new_zeros(3, last - first + 1)
    gathered.index_add_(1, bins - first, fates[:, used])
    small, kept, large = gathered.tolist()
    return Histogram(first, (small, kept, large))
