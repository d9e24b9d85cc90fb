"""What the cuts do to the task vectors of one weight, counted and summed.

Everything is read off a histogram of the magnitudes by fate (small, kept, large): of a
16-bit dtype's every magnitude, of a wider one's upper 16 bits, with the squares summed
beside. Elements as large as a cut are told apart by how many there are: the selection
ranks them by position, but they count and weigh alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import torch

from mergekit_breadcrumbs._chunked import ChunkedTaskVector, Scratch, flattened, read
from mergekit_breadcrumbs.counting import chunks, key_value, magnitude_keys
from mergekit_breadcrumbs.selection import (
    Counts,
    Granularity,
    refuse_non_finite,
    slice_counts,
)

BINS_PER_OCTAVE = 4
"""Bins of the histograms that are reported, for each doubling of the magnitude."""

SMALL, KEPT, LARGE = range(3)
_DIGITS = 1 << 15  # the sign bit of the upper 16 is always clear
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


class WeightFigures(NamedTuple):
    """What becomes of all task vectors of one weight, and how they meet."""

    vectors: list[Figures]
    overlapping: int
    opposed: int
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
) -> WeightFigures:
    """Count and weigh what a merge would keep and drop of one weight.

    Args:
        base: the base weight, any shape, floating dtype, any device.
        finetuned: the same weight of each fine-tuned model.
        weight: coefficient of each task vector; only its sign matters here.
        density: fraction kept of each, in [0, 1].
        gamma: fraction dropped as large from each, in [0, 1].
        granularity: what a slice is.
        names: what to call each model in an error message.

    Returns:
        Per task vector how many elements are exactly zero, small, kept and large, the
        sums of their squares, the cuts and the histogram. `overlapping` counts the
        elements to which at least two models add something other than zero, `opposed`
        those among them where not all add with the same sign.

    Raises:
        ValueError: if a fraction is out of range or a task vector is not finite.

    Example:
        >>> figures = measure(
        ...     torch.zeros(4),
        ...     [torch.tensor([0.1, 1.0, -2.0, 9.0])],
        ...     weight=[1], density=[0.5], gamma=[0.25],
        ... ).vectors[0]
        >>> figures.counts, figures.squares[1:]
        (Counts(small=1, kept=2, large=1), (5.0, 81.0))
        >>> figures.lower, figures.upper
        (Cut(lowest=1.0, highest=1.0, ties=1, ties_kept=1), \
Cut(lowest=9.0, highest=9.0, ties=1, ties_kept=0))
    """
    scratch = Scratch(base.device)
    vectors = [
        ChunkedTaskVector(base, tuned, kept, large, granularity, scratch)
        for tuned, kept, large in zip(finetuned, density, gamma, strict=True)
    ]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        tallies = [
            _Tally(vector, slice_counts(vector.length, kept, large), base, tuned, pool)
            for vector, kept, large, tuned in zip(
                vectors, density, gamma, finetuned, strict=True
            )
        ]
        overlapping, opposed = _count_meetings(vectors, tallies, weight, scratch)
    for index, vector in enumerate(vectors):
        label = names[index] if names else f"task vector {index}"
        refuse_non_finite(vector.bad(), base.numel(), label)
    figures = [tally.figures() for tally in tallies]
    return WeightFigures(figures, overlapping, opposed, _square_sum(base))


def _square_sum(values: torch.Tensor) -> float:
    flat = flattened(values)
    return sum(
        float(torch.linalg.vector_norm(read(flat, *chunk), dtype=torch.float64)) ** 2
        for chunk in chunks(values.numel(), values.device)
    )


def _count_meetings(
    vectors: Sequence[ChunkedTaskVector],
    tallies: Sequence[_Tally],
    weight: Sequence[float],
    scratch: Scratch,
) -> tuple[int, int]:
    """Go through all chunks once, for the tallies and for what several models change."""
    overlapping = opposed = 0
    for start, stop in vectors[0].plan() if vectors else ():
        work = vectors[0].work
        balance = scratch.get("balance", stop - start, work).zero_()
        changing = scratch.get("changing", stop - start, work).zero_()
        for vector, tally, coefficient in zip(vectors, tallies, weight, strict=True):
            survivors = vector.survivors(start, stop)
            tally.add(start, stop)
            if coefficient and len(vectors) > 1:
                sign = survivors.sign_()
                changing.addcmul_(sign, sign)
                balance.add_(sign, alpha=math.copysign(1, coefficient))
        if len(vectors) > 1:
            opposed += int((balance.abs_() != changing).count_nonzero())
            overlapping += int((changing > 1).count_nonzero())
    return overlapping, opposed


class _Tally:
    """Counts and sums of one task vector, chunk by chunk."""

    def __init__(
        self,
        vector: ChunkedTaskVector,
        counts: Counts,
        base: torch.Tensor,
        finetuned: torch.Tensor,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._vector, self._counts, self._pool = vector, counts, pool
        self._base, self._finetuned = flattened(base), flattened(finetuned)
        self._dtype, device = base.dtype, base.device
        self._slices = base.numel() // vector.length if vector.length else 0
        # All of it is then in the histogram, and ranks tell the fates apart.
        self._whole = self._slices == 1 and base.dtype.itemsize == 2
        self._fates = torch.zeros(3, _DIGITS, dtype=torch.long, device=device)
        self._squares = torch.zeros(3, _DIGITS, dtype=torch.float64, device=device)
        self._zero = 0
        # Per slice: both cuts, and how many elements are on which side of them.
        self._cuts = torch.zeros(2, self._slices, dtype=torch.float64, device=device)
        self._beyond = torch.zeros(2, self._slices, dtype=torch.long, device=device)
        self._ties = torch.zeros(2, self._slices, dtype=torch.long, device=device)

    def add(self, start: int, stop: int) -> None:
        """Take a chunk of the vector's plan into account."""
        delta = read(self._finetuned, start, stop) - read(self._base, start, stop)
        if self._whole:
            self._fates[KEPT] += self._count(magnitude_keys(delta, overwrite=True), 1)
            return
        first = start // self._vector.length
        rows = delta.view(-1, min(self._vector.length, delta.numel()))
        last = first + len(rows)
        self._zero += delta.numel() - int(delta.count_nonzero())
        magnitude = rows.abs().to(self._vector.work)
        lower, upper = self._cut(first, rows)
        below, above = magnitude < lower, magnitude > upper
        cuts = torch.stack([lower.view(-1), upper.view(-1)])
        self._cuts[:, first:last] = cuts.double().expand(-1, len(rows))
        for side, (beyond, cut) in enumerate(((below, lower), (above, upper))):
            self._beyond[side, first:last] += beyond.sum(-1)
            self._ties[side, first:last] += (magnitude == cut).sum(-1)
        keys = magnitude_keys(rows, overwrite=True)
        index = (keys >> self._shift()).int() + _DIGITS
        index.add_(above, alpha=_DIGITS).add_(below, alpha=-_DIGITS)
        self._fates += self._count(index.view(-1), 3).view(3, -1)
        if self._dtype.itemsize > 2:
            squares = magnitude.double().square_().view(-1)
            self._squares += self._count(index.view(-1), 3, squares).view(3, -1)

    def _shift(self) -> int:
        return 8 * self._dtype.itemsize - 16

    def _cut(self, first: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the magnitudes [rows, 1] of the first survivor and the first large."""
        if self._vector._cuts:
            cuts = self._vector._cuts[first]
            values = [key_value(c.key, self._dtype) for c in (cuts.first, cuts.end)]
            lower, upper = torch.tensor(values, dtype=self._vector.work).view(2, 1, 1)
            return lower.to(rows.device), upper.to(rows.device)
        ranked = magnitude_keys(rows).sort(-1).values.view(self._dtype)
        infinite = rows.new_full((len(rows), 1), torch.inf)
        ranked = torch.cat([ranked, infinite], -1).to(self._vector.work)
        small, kept, _ = self._counts
        return ranked[:, small, None], ranked[:, small + kept, None]

    def _count(
        self, index: torch.Tensor, fates: int, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        columns = fates * _DIGITS
        if index.device.type != "cpu" or index.numel() < _FEW:
            return torch.bincount(index, weights, minlength=columns)
        # torch counts on one thread only.
        parts = index.chunk(torch.get_num_threads())
        weighed = [None] * len(parts) if weights is None else weights.chunk(len(parts))

        def count(part: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
            return torch.bincount(part, weights, minlength=columns)

        counts = list(self._pool.map(count, parts, weighed))
        return torch.stack(counts).sum(0) if len(counts) > 1 else counts[0]

    def figures(self) -> Figures:
        """Return what all chunks add up to."""
        values = _digit_values(self._dtype).to(self._fates.device)
        if self._whole:
            self._read_ranks(values)
        ties = torch.tensor([self._counts.small, self._counts.large])[:, None]
        ties = ties.to(self._beyond.device) - self._beyond
        self._split_ties(ties)
        if self._dtype.itemsize == 2:
            self._squares = self._fates * values.square()
        elsewhere = torch.where(self._cuts[0] == self._cuts[1], ties.flip(0), 0)
        kept = self._ties - ties - elsewhere
        counts = Counts(*(count * self._slices for count in self._counts))
        length = self._vector.length
        # What was split off may leave a rounding error where there is nothing.
        squares = self._squares.sum(1).clamp(min=0) * torch.tensor(counts).sign()
        small, middle, large = squares.tolist()
        return Figures(
            self._zero,
            counts,
            (small, middle, large),
            self._report(0, kept) if 0 < self._counts.small < length else None,
            self._report(1, kept) if 0 < self._counts.large < length else None,
            _in_bins(self._fates.cpu(), values.cpu()),
        )

    def _read_ranks(self, values: torch.Tensor) -> None:
        """Find the cuts in the histogram, and what is on which side of them."""
        total = self._fates[KEPT].clone()
        upto = total.cumsum(0)
        self._zero = int(total[0])
        bounds = (self._counts.small, self._counts.small + self._counts.kept)
        first, end = (int(torch.searchsorted(upto, r, right=True)) for r in bounds)
        self._fates[SMALL, :first] = total[:first]
        self._fates[KEPT, :first] = 0
        self._beyond[0, 0] = total[:first].sum()
        self._set_cut(0, first, total, values)
        self._set_cut(1, end, total, values)
        self._fates[LARGE, end + 1 :] = total[end + 1 :]
        self._fates[KEPT, end + 1 :] = 0
        self._beyond[1, 0] = total[end + 1 :].sum()

    def _set_cut(
        self, side: int, digit: int, total: torch.Tensor, values: torch.Tensor
    ) -> None:
        inside = digit < _DIGITS
        self._cuts[side, 0] = values[digit] if inside else torch.inf
        self._ties[side, 0] = total[digit] if inside else 0

    def _split_ties(self, ties: torch.Tensor) -> None:
        """Move the ties that rank as small or large out of those that are kept."""
        keys = magnitude_keys(self._cuts.to(self._dtype)) >> self._shift()
        squares = self._cuts.square() * ties
        squares = torch.where(ties > 0, squares, 0)
        for side, fate in enumerate((SMALL, LARGE)):
            digits = keys[side].long()
            for table, moved in ((self._fates, ties), (self._squares, squares)):
                table[fate].index_add_(0, digits, moved[side])
                table[KEPT].index_add_(0, digits, -moved[side])

    def _report(self, side: int, kept: torch.Tensor) -> Cut | None:
        if not self._slices:
            return None
        lowest, highest = self._cuts[side].aminmax()
        ties, survivors = self._ties[side].sum(), kept[side].sum()
        return Cut(float(lowest), float(highest), int(ties), int(survivors))


@cache
def _digit_values(dtype: torch.dtype) -> torch.Tensor:
    """Return the least magnitude, float64, that starts with each 16-bit digit."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    digits = torch.arange(_DIGITS, dtype=torch.int64) << (8 * dtype.itemsize - 16)
    values = digits.to(integer).view(dtype).double()
    return torch.where(values.isfinite(), values, 0)  # there are none in the end


def _in_bins(fates: torch.Tensor, values: torch.Tensor) -> Histogram:
    """Gather digits in bins that do not depend on the dtype."""
    used = (fates.sum(0) > 0) & (values > 0)
    if not used.any():
        return Histogram(0, ([], [], []))
    bins = (values[used].log2() * BINS_PER_OCTAVE).floor().long()
    first = int(bins[0])
    gathered = torch.zeros(3, int(bins[-1]) - first + 1, dtype=torch.long)
    gathered.index_add_(1, bins - first, fates[:, used])
    small, kept, large = gathered.tolist()
    return Histogram(first, (small, kept, large))
