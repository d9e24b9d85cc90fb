"""Counts and sums over a task vector whose elements are compared with the cuts.

Elements as large as a cut are told apart by how many there are: the selection ranks
them by position, but they count and weigh alike.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import key_value, magnitude_keys
from mergekit_breadcrumbs.core.selection import Counts
from mergekit_breadcrumbs.measure.tally_by_count import (
    KEPT,
    LARGE,
    LOWER,
    SMALL,
    UPPER,
    Cut,
    Figures,
    Task,
    in_bins,
)

_BITS = 13  # of a magnitude that tell where it is in the histogram


class Look(NamedTuple):
    """What one chunk adds to a tally; `rows` are the slices that it is of."""

    rows: slice
    zero: torch.Tensor
    fates: torch.Tensor
    squares: torch.Tensor
    cuts: torch.Tensor
    beyond: torch.Tensor
    ties: torch.Tensor


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
        """Whether `look` needs them, because the cuts are not known."""
        return not self._task.vector._cuts

    def look(
        self, start: int, stop: int, survivors: torch.Tensor | None = None
    ) -> Look:
        """Return what a chunk of the vector's plan adds; any thread may ask.

        What survives of the chunk is needed where the cuts are not known.
        """
        delta = self._task.delta(start, stop)
        zero = delta.numel() - delta.count_nonzero()
        length = self._task.vector.length
        rows = delta.view(-1, min(length, delta.numel()))
        here = slice(start // length, start // length + len(rows))
        keys = magnitude_keys(delta, overwrite=True)  # and so `rows` are magnitudes
        magnitude = self._memory("magnitude", rows, self._task.vector.work).copy_(rows)
        cuts = torch.stack(self._cuts_of(here.start, magnitude, survivors))
        index = self._memory("index", rows, torch.int32)
        torch.bitwise_right_shift(keys.view(rows.shape), self._shift, out=index)
        index.add_(1 << _BITS)
        found = self._memory("found", rows, torch.bool)
        beyond, ties = [], []
        for side, cut in enumerate(cuts):
            compare = torch.lt if side == LOWER else torch.ge
            compare(magnitude, cut, out=found)
            index.add_(found, alpha=-1 << _BITS if side == LOWER else 1 << _BITS)
            beyond.append(_count_true(found))
            ties.append(_count_true(torch.eq(magnitude, cut, out=found)))
        flat, columns = index.view(-1), 3 << _BITS
        fates = torch.bincount(flat, minlength=columns)
        squares = self._memory("squares", rows, torch.float64).copy_(magnitude)
        # In three columns, each sum would wait for the one before it.
        by_digit = torch.bincount(flat, squares.square_().view(-1), minlength=columns)
        return Look(
            here,
            zero,
            fates.view(3, -1),
            by_digit.view(3, -1).sum(1),
            cuts[:, :, 0].double(),
            torch.stack(beyond).view(2, -1),
            torch.stack(ties).view(2, -1),
        )

    def take(self, look: Look) -> None:
        """Take what `look` returned into account, chunk after chunk."""
        self._zero += int(look.zero)
        self._fates += look.fates
        self._squares += look.squares
        self._cuts[:, look.rows] = look.cuts
        self._beyond[:, look.rows] += look.beyond
        self._ties[:, look.rows] += look.ties

    def _memory(self, use: str, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return self._task.workspace.memory(use, like.numel(), dtype).view(like.shape)

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
        small = counts.small - self._beyond[LOWER]
        kept = self._beyond[UPPER] - counts.large
        for source, to, side, ties in (
            (LARGE, KEPT, UPPER, kept),
            (KEPT, SMALL, LOWER, small),
        ):
            digits = keys[side].long()
            self._fates[to].index_add_(0, digits, ties)
            self._fates[source].index_add_(0, digits, -ties)
            squares = torch.where(ties > 0, self._cuts[side].square() * ties, 0).sum()
            self._squares[to] += squares
            self._squares[source] -= squares
        ties = torch.stack([small, self._ties[UPPER] - kept])
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
            self._cut(LOWER, surviving) if 0 < counts.small < length else None,
            self._cut(UPPER, surviving) if 0 < counts.large < length else None,
            in_bins(self._fates, values),
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
