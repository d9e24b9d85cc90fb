"""Counts and sums over a task vector whose elements are compared with the cuts.

Elements as large as a cut are told apart by how many there are: the selection ranks
them by position, but they count and weigh alike.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import (
    bits_of,
    key_value,
    magnitude_keys,
    magnitudes,
)
from mergekit_breadcrumbs.core.selection import SliceCounts
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.core.workspace import Workspace
from mergekit_breadcrumbs.measure.report import Counts, Cut, Squares
from mergekit_breadcrumbs.measure.tally_by_count import (
    KEPT,
    LARGE,
    SMALL,
    Tallied,
    in_bins,
)

_BITS = 13  # of a magnitude that tell where it is in the histogram

_LOWER, _UPPER = range(2)  # positions in tensors that have one entry for each cut


class ChunkTally(NamedTuple):
    """What one chunk adds; `slices` are those that it is of."""

    slices: slice
    zero: torch.Tensor
    fates: torch.Tensor
    squares: torch.Tensor
    cuts: torch.Tensor
    beyond: torch.Tensor
    ties: torch.Tensor


class TallyByCompare:
    """Tally of any task vector, whose slices' cuts are known or can be found."""

    def __init__(self, vector: TaskVector, workspace: Workspace) -> None:
        self._vector, self._workspace = vector, workspace
        length, device = vector.length, vector.device
        self._shift = 8 * vector.dtype.itemsize - 1 - _BITS
        self._slices = slices = vector.elements // length if length else 0
        self._zero = 0
        self._fates = torch.zeros(3, 1 << _BITS, dtype=torch.long, device=device)
        self._squares = torch.zeros(3, dtype=torch.float64, device=device)
        # Per slice: both cuts, how many elements are below the lower one and how many
        # not below the upper one, and how many are as large as each.
        self._cuts = torch.zeros(2, slices, dtype=torch.float64, device=device)
        self._beyond, self._ties = torch.zeros(
            2, 2, slices, dtype=torch.long, device=device
        )

    @property
    def needs_survivors(self) -> bool:
        """Whether `count` needs them, because the cuts are not known."""
        return not self._vector.cuts

    def count(
        self, chunk: tuple[int, int], survivors: torch.Tensor | None = None
    ) -> ChunkTally:
        """Return what a chunk of the vector adds; any thread may ask.

        What survives of the chunk is needed where the cuts are not known.
        """
        delta = self._vector.delta(*chunk)
        length = self._vector.length
        delta = delta.view(-1, min(length, delta.numel()))
        first = chunk[0] // length
        keys = magnitude_keys(delta, overwrite=True)  # and so `delta` is magnitudes
        # Far faster than `count_nonzero`, which branches at each element.
        zero = torch.eq(keys, 0, out=self._memory("found", delta, torch.bool)).sum()
        magnitude = self._memory("magnitude", delta, self._vector.work).copy_(delta)
        cuts = torch.stack(self._cuts_of(first, magnitude, survivors))
        index = self._memory("index", delta, torch.int32)
        torch.bitwise_right_shift(keys, self._shift, out=index)
        index.add_(1 << _BITS)
        found = self._memory("found", delta, torch.bool)
        beyond, ties = [], []
        for side, cut in enumerate(cuts):
            compare = torch.lt if side == _LOWER else torch.ge
            compare(magnitude, cut, out=found)
            index.add_(found, alpha=-1 << _BITS if side == _LOWER else 1 << _BITS)
            beyond.append(_count_true(found))
            ties.append(_count_true(torch.eq(magnitude, cut, out=found)))
        flat, columns = index.view(-1), 3 << _BITS
        fates = torch.bincount(flat, minlength=columns)
        squares = self._memory("squares", delta, torch.float64).copy_(magnitude)
        # In three columns, each sum would wait for the one before it.
        by_digit = torch.bincount(flat, squares.square_().view(-1), minlength=columns)
        return ChunkTally(
            slice(first, first + len(delta)),
            zero,
            fates.view(3, -1),
            by_digit.view(3, -1).sum(1),
            cuts[:, :, 0].double(),
            torch.stack(beyond).view(2, -1),
            torch.stack(ties).view(2, -1),
        )

    def add(self, chunk: ChunkTally) -> None:
        """Add what `count` returned, chunk after chunk."""
        self._zero += int(chunk.zero)
        self._fates += chunk.fates
        self._squares += chunk.squares
        self._cuts[:, chunk.slices] = chunk.cuts
        self._beyond[:, chunk.slices] += chunk.beyond
        self._ties[:, chunk.slices] += chunk.ties

    def _memory(self, use: str, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return self._workspace.memory(use, like.numel(), dtype).view(like.shape)

    def _cuts_of(
        self, first: int, magnitude: torch.Tensor, survivors: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where slices are cut: magnitudes [slices, 1], lower and upper."""
        vector = self._vector
        if vector.cuts:
            lower, upper = (
                magnitude.new_full((1, 1), key_value(cut.key, vector.dtype))
                for cut in (vector.cuts[first].lower, vector.cuts[first].upper)
            )
            return lower, upper
        if survivors is not None and vector.counts.kept:
            return _bounds(magnitude, survivors.view(magnitude.shape), vector.counts)
        ranked = magnitude.sort(-1).values
        infinite = magnitude.new_full((len(magnitude), 1), torch.inf)
        small = vector.counts.small
        cut = ranked[:, [small]] if small < ranked.shape[1] else infinite
        return cut, cut

    def result(self) -> Tallied:
        """Return what all chunks add up to."""
        vector, counts = self._vector, self._vector.counts
        keys = magnitude_keys(self._cuts.to(vector.dtype)) >> self._shift
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
        # What was moved may leave a rounding error where there is nothing.
        squares = (
            self._squares.cpu().clamp(min=0) * torch.tensor(counts, device="cpu").sign()
        )
        values = _digit_values(vector.dtype).to(vector.device)
        return Tallied(
            self._zero,
            Counts(**{k: n * self._slices for k, n in counts._asdict().items()}),
            Squares(**dict(zip(counts._fields, squares.tolist(), strict=True))),
            self._cut(_LOWER, counts.small, surviving),
            self._cut(_UPPER, counts.large, surviving),
            in_bins(self._fates, values),
        )

    def _cut(self, side: int, dropped: int, surviving: torch.Tensor) -> Cut | None:
        if not self._slices or not 0 < dropped < self._vector.length:
            return None
        lowest, highest = self._cuts[side].aminmax()
        return Cut(
            lowest=float(lowest),
            highest=float(highest),
            ties=int(self._ties[side].sum()),
            ties_kept=int(surviving[side].sum()),
        )


def _bounds(
    magnitude: torch.Tensor, survivors: torch.Tensor, counts: SliceCounts
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cuts of whole slices, [slices, 1] each, which have survivors.

    The first survivor is the least of them. The first large element is as large as the
    greatest, unless so many are larger as are dropped.
    """
    # As keys, in which what is to be passed over is easily made the largest.
    top, work = torch.iinfo(bits_of(magnitude).dtype).max, magnitude.dtype
    kept = magnitude_keys(survivors)
    greatest = kept.amax(-1, keepdim=True)
    nonzero = _count_true(kept != 0).view(-1, 1)
    least = kept.sub_(1).bitwise_and_(top).amin(-1, keepdim=True).add_(1)
    lower = torch.where(nonzero < counts.kept, 0, least).view(work)
    if not counts.large:
        return lower, torch.full_like(lower, torch.inf)
    beyond = bits_of(magnitude) - greatest
    full = _count_true(beyond > 0).view(-1, 1) >= counts.large
    next_one = beyond.sub_(1).bitwise_and_(top).amin(-1, keepdim=True).add_(1)
    return lower, torch.where(full, next_one.add_(greatest), greatest).view(work)


def _count_true(slices: torch.Tensor) -> torch.Tensor:
    # Far faster for the one slice that a chunk of a long one is of.
    return slices.count_nonzero() if len(slices) == 1 else slices.sum(-1)


@cache
def _digit_values(dtype: torch.dtype) -> torch.Tensor:
    """Return the least magnitude, float64, that has each value of the upper bits."""
    digits = torch.arange(1 << _BITS, device="cpu") << (8 * dtype.itemsize - 1 - _BITS)
    return magnitudes(digits, dtype).double()
