"""Counts and sums over one task vector, taken chunk by chunk.

In a 16-bit dtype there are so few magnitudes that counting each tells everything: what
is small, kept or large follows from the ranks alone. Otherwise elements are told apart
by comparing them with the cuts. Elements as large as a cut are then told apart by how
many there are: the selection ranks them by position, but they count and weigh alike.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import torch

from mergekit_breadcrumbs._chunked import ChunkedTaskVector, Scratch, flattened, read
from mergekit_breadcrumbs.counting import key_value, magnitude_keys
from mergekit_breadcrumbs.selection import Counts

BINS_PER_OCTAVE = 4
"""Bins of the histograms that are reported, for each doubling of the magnitude."""

SMALL, KEPT, LARGE = range(3)
_LOWER, _UPPER = range(2)
_BITS = 13  # of a magnitude that tell where it is in the histogram
_FEW = 1 << 14  # so few elements are counted faster than threads are woken


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
    scratch: Scratch
    pool: ThreadPoolExecutor

    def delta(self, start: int, stop: int) -> torch.Tensor:
        """Return a chunk of the task vector, in memory that the next one overwrites."""
        memory = self.scratch.get("tallied", stop - start, self.base.dtype)
        finetuned, base = flattened(self.finetuned), flattened(self.base)
        return torch.sub(
            read(finetuned, start, stop), read(base, start, stop), out=memory
        )

    def bincount(
        self, index: torch.Tensor, columns: int, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Do what `torch.bincount` does, on all threads."""
        if index.device.type != "cpu" or index.numel() < _FEW:
            return torch.bincount(index, weights, minlength=columns)
        parts = index.chunk(torch.get_num_threads())
        weighed = [None] * len(parts) if weights is None else weights.chunk(len(parts))

        def count(part: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
            return torch.bincount(part, weights, minlength=columns)

        first, *others = self.pool.map(count, parts, weighed)
        for other in others:
            first += other
        return first


class HistogramTally:
    """Tally of a 16-bit task vector that is ranked as a whole."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._keys = torch.zeros(1 << 15, dtype=torch.long, device=task.base.device)

    needs_survivors = False

    def add(self, start: int, stop: int, survivors: torch.Tensor | None = None) -> None:
        """Take a chunk of the vector's plan into account."""
        keys = magnitude_keys(self._task.delta(start, stop), overwrite=True)
        self._keys += self._task.bincount(keys, len(self._keys))

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
            cuts[_LOWER] if 0 < small < length else None,
            cuts[_UPPER] if 0 < large < length else None,
            _in_bins(fates, values),
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


class SplitTally:
    """Tally of any task vector, whose slices' cuts are known or can be had."""

    def __init__(self, task: Task) -> None:
        self._task = task
        base, length = task.base, task.vector.length
        self._shift = 8 * base.dtype.itemsize - 1 - _BITS
        self._slices = slices = base.numel() // length if length else 0
        self._zero = 0
        self._fates = torch.zeros(3, 1 << _BITS, dtype=torch.long, device=base.device)
        self._squares = torch.zeros(3, dtype=torch.float64, device=base.device)
        # Per slice: both cuts, how many elements are below the lower one and how many
        # not below the upper one, and how many are as large as each.
        self._cuts = torch.zeros(2, slices, dtype=torch.float64, device=base.device)
        self._beyond, self._ties = torch.zeros(
            2, 2, slices, dtype=torch.long, device=base.device
        )

    @property
    def needs_survivors(self) -> bool:
        """Whether `add` needs them, because the cuts are not known."""
        return not self._task.vector._cuts

    def add(self, start: int, stop: int, survivors: torch.Tensor | None = None) -> None:
        """Take a chunk of the vector's plan, and what survives of it, into account."""
        delta = self._task.delta(start, stop)
        self._zero += delta.numel() - int(delta.count_nonzero())
        length = self._task.vector.length
        rows = delta.view(-1, min(length, delta.numel()))
        here = slice(start // length, start // length + len(rows))
        keys = magnitude_keys(delta, overwrite=True)  # and so `rows` are magnitudes
        magnitude = rows.to(self._task.vector.work)
        cuts = self._cuts_of(here.start, magnitude, survivors)
        index = (keys >> self._shift).int().view(rows.shape)
        index.add_(1 << _BITS)
        for side, cut in enumerate(cuts):
            beyond = magnitude < cut if side == _LOWER else magnitude >= cut
            index.add_(beyond, alpha=-1 << _BITS if side == _LOWER else 1 << _BITS)
            self._cuts[side, here] = cut[:, 0].double()
            self._beyond[side, here] += _count_true(beyond)
            self._ties[side, here] += _count_true(magnitude == cut)
        flat = index.view(-1)
        self._fates += self._task.bincount(flat, 3 << _BITS).view(3, -1)
        # In three columns, threads would wait for memory that was just written.
        squares = magnitude.double().square_().view(-1)
        by_digit = self._task.bincount(flat, 3 << _BITS, squares)
        self._squares += by_digit.view(3, -1).sum(1)

    def _cuts_of(
        self, first: int, magnitude: torch.Tensor, survivors: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the magnitudes [rows, 1] of the first survivor and the first large."""
        found = self._task.vector._cuts
        if found:
            lower, upper = (
                magnitude.new_full((1, 1), key_value(cut.key, self._task.base.dtype))
                for cut in (found[first].first, found[first].end)
            )
            return lower, upper
        if survivors is not None and self._task.counts.kept:
            rows = survivors.view(magnitude.shape)
            return _bounds(magnitude, rows, self._task.counts)
        ranked = magnitude.sort(-1).values
        infinite = magnitude.new_full((len(magnitude), 1), torch.inf)
        small = self._task.counts.small
        cut = ranked[:, [small]] if small < ranked.shape[1] else infinite
        return cut, cut

    def figures(self) -> Figures:
        """Return what all chunks add up to."""
        counts, length = self._task.counts, self._task.vector.length
        keys = magnitude_keys(self._cuts.to(self._task.base.dtype)) >> self._shift
        small = counts.small - self._beyond[_LOWER]
        kept = self._beyond[_UPPER] - counts.large
        for source, to, side, ties in (
            (LARGE, KEPT, _UPPER, kept),
            (KEPT, SMALL, _LOWER, small),
        ):
            digits = keys[side].long()
            self._fates[to].index_add_(0, digits, ties)
            self._fates[source].index_add_(0, digits, -ties)
            squares = torch.where(ties > 0, self._cuts[side].square() * ties, 0).sum()
            self._squares[to] += squares
            self._squares[source] -= squares
        ties = torch.stack([small, self._ties[_UPPER] - kept])
        # A tie that is dropped on the other side does not survive either.
        elsewhere = torch.where(self._cuts[0] == self._cuts[1], ties.flip(0), 0)
        surviving = self._ties - ties - elsewhere
        totals = Counts(*(count * self._slices for count in counts))
        # What was split off may leave a rounding error where there is nothing.
        left = self._squares.cpu().clamp(min=0) * torch.tensor(totals).sign()
        values = _digit_values(self._task.base.dtype).to(self._fates.device)
        return Figures(
            self._zero,
            totals,
            (float(left[SMALL]), float(left[KEPT]), float(left[LARGE])),
            self._cut(_LOWER, surviving) if 0 < counts.small < length else None,
            self._cut(_UPPER, surviving) if 0 < counts.large < length else None,
            _in_bins(self._fates, values),
        )

    def _cut(self, side: int, kept: torch.Tensor) -> Cut | None:
        if not self._slices:
            return None
        lowest, highest = self._cuts[side].aminmax()
        ties, survivors = self._ties[side].sum(), kept[side].sum()
        return Cut(float(lowest), float(highest), int(ties), int(survivors))


def _bounds(
    magnitude: torch.Tensor, survivors: torch.Tensor, counts: Counts
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cuts of whole slices, [rows, 1] each, which have survivors.

    The first survivor is the least of them. The first large element is as large as the
    greatest, unless so many are larger as are dropped.
    """
    kept = survivors.abs()
    nonzero = _count_true(survivors != 0).view(-1, 1)
    least = torch.where(survivors == 0, torch.inf, kept).amin(-1, keepdim=True)
    greatest = kept.amax(-1, keepdim=True)
    lower = torch.where(nonzero < counts.kept, 0, least)
    if not counts.large:
        return lower, torch.full_like(lower, torch.inf)
    larger = magnitude > greatest
    next_one = torch.where(larger, magnitude, torch.inf).amin(-1, keepdim=True)
    full = _count_true(larger).view(-1, 1) >= counts.large
    return lower, torch.where(full, next_one, greatest)


def _count_true(rows: torch.Tensor) -> torch.Tensor:
    # Far faster for the one row that a chunk of a long slice is.
    return rows.count_nonzero() if len(rows) == 1 else rows.sum(-1)


@cache
def _digit_values(dtype: torch.dtype) -> torch.Tensor:
    """Return the least magnitude, float64, that has each value of the upper bits."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    digits = torch.arange(1 << _BITS) << (8 * dtype.itemsize - 1 - _BITS)
    return digits.to(integer).view(dtype).double()


def _in_bins(fates: torch.Tensor, values: torch.Tensor) -> Histogram:
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
