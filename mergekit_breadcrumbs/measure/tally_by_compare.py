"""Counts and sums over a task vector whose elements are compared with the cuts.

Elements as large as a cut are told apart by how many there are: the selection ranks
them by position, but they count and weigh alike.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import (
    magnitude_keys,
    magnitudes,
    non_finite_key,
)
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.core.workspace import Workspace
from mergekit_breadcrumbs.measure.report import Counts, Cut, Squares
from mergekit_breadcrumbs.measure.slice_bounds import bounds, sums
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
    below: torch.Tensor
    ties: torch.Tensor


class TallyByCompare:
    """Tally of any task vector, whose slices' cuts are known or can be found.

    Keys are compared by their differences: torch makes bools ten times as slowly.
    """

    def __init__(self, vector: TaskVector, workspace: Workspace) -> None:
        self._vector, self._workspace = vector, workspace
        length, device = vector.length, vector.device
        self._width = 8 * vector.dtype.itemsize - 1
        self._shift = self._width - _BITS
        self._slices = slices = vector.elements // length if length else 0
        self._zero = 0
        self._fates = torch.zeros(3, 1 << _BITS, dtype=torch.long, device=device)
        self._squares = torch.zeros(3, dtype=torch.float64, device=device)
        # Per slice: the keys of both cuts, how many elements are below each, and how
        # many are as large.
        self._cuts, self._below, self._ties = torch.zeros(
            3, 2, slices, dtype=torch.long, device=device
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
        first = chunk[0] // length
        keys = magnitude_keys(delta, overwrite=True)
        keys = keys.view(-1, min(length, delta.numel()))
        cuts = torch.stack(self._cuts_of(first, keys, survivors))
        index = self._memory("index", keys)
        zero = -sums(torch.sub(keys, 1, out=index).bitwise_right_shift_(self._width))
        torch.bitwise_right_shift(keys, self._shift, out=index).add_(2 << _BITS)
        parts, below, ties = [], [], []
        for side, cut in enumerate(cuts):
            part = torch.sub(keys, cut, out=self._memory(f"part {side}", keys))
            unequal = torch.sign(part, out=self._memory("unequal", keys))
            ties.append(keys.shape[1] - sums(unequal.bitwise_and_(1)))
            part.bitwise_right_shift_(self._width)  # -1 below the cut, else 0
            below.append(-sums(part))
            index.add_(part, alpha=1 << _BITS)
            parts.append(part.bitwise_and_(keys))
        fates = torch.bincount(index.view(-1), minlength=3 << _BITS)
        small, kept = parts
        large = keys.bitwise_xor_(kept)
        kept.bitwise_xor_(small)
        squares = [self._square_sum(part) for part in (small, kept, large)]
        return ChunkTally(
            slice(first, first + len(keys)),
            zero.sum(),
            fates.view(3, -1),
            torch.stack(squares),
            cuts[:, :, 0].long(),
            torch.stack(below),
            torch.stack(ties),
        )

    def add(self, chunk: ChunkTally) -> None:
        """Add what `count` returned, chunk after chunk."""
        self._zero += int(chunk.zero)
        self._fates += chunk.fates
        self._squares += chunk.squares
        self._cuts[:, chunk.slices] = chunk.cuts
        self._below[:, chunk.slices] += chunk.below
        self._ties[:, chunk.slices] += chunk.ties

    def upper_key(
        self, chunk: tuple[int, int], part: ChunkTally | None
    ) -> int | torch.Tensor:
        """Return the key of the least element that is dropped as large, if any is.

        Args:
            chunk: of the vector.
            part: what `count` returned for it, where the cuts are not known.

        Returns:
            One key for all of the chunk, or one for each slice, [slices, 1].
        """
        if part is None:
            return self._vector.cuts[chunk[0] // self._vector.length].upper.key
        keys = part.cuts[_UPPER].view(-1, 1)
        return keys.to(getattr(torch, f"int{self._width + 1}"))

    def _memory(self, use: str, like: torch.Tensor) -> torch.Tensor:
        return self._workspace.memory(use, like.numel(), like.dtype).view(like.shape)

    def _square_sum(self, keys: torch.Tensor) -> torch.Tensor:
        values = self._workspace.memory("squares", keys.numel(), torch.float64)
        values.copy_(magnitudes(keys, self._vector.dtype).view(-1))
        return values.dot(values)

    def _cuts_of(
        self, first: int, keys: torch.Tensor, survivors: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys at which slices are cut, [slices, 1], lower and upper."""
        vector, counts = self._vector, self._vector.counts
        if vector.cuts:
            lower, upper = (
                keys.new_full((1, 1), cut.key)
                for cut in (vector.cuts[first].lower, vector.cuts[first].upper)
            )
            return lower, upper
        infinity = non_finite_key(vector.dtype)
        if survivors is not None and counts.kept:
            values = self._workspace.memory("kept", keys.numel(), vector.dtype)
            kept = magnitude_keys(values.copy_(survivors), overwrite=True)
            return bounds(keys, kept.view(keys.shape), counts, infinity)
        cut = keys.new_full((len(keys), 1), infinity)
        if counts.small < keys.shape[1]:
            cut = keys.sort(-1).values[:, [counts.small]]
        return cut, cut

    def result(self) -> Tallied:
        """Return what all chunks add up to."""
        vector, counts = self._vector, self._vector.counts
        small = counts.small - self._below[_LOWER]
        kept = vector.length - self._below[_UPPER] - counts.large
        cuts = magnitudes(self._cuts, vector.dtype).double()
        for source, to, side, ties in (
            (LARGE, KEPT, _UPPER, kept),
            (KEPT, SMALL, _LOWER, small),
        ):
            digits = self._cuts[side] >> self._shift
            self._fates[to].index_add_(0, digits, ties)
            self._fates[source].index_add_(0, digits, -ties)
            squares = torch.where(ties > 0, cuts[side].square() * ties, 0).sum()
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
            self._cut(_LOWER, counts.small, cuts, surviving),
            self._cut(_UPPER, counts.large, cuts, surviving),
            in_bins(self._fates, values),
        )

    def _cut(
        self, side: int, dropped: int, cuts: torch.Tensor, surviving: torch.Tensor
    ) -> Cut | None:
        if not self._slices or not 0 < dropped < self._vector.length:
            return None
        lowest, highest = cuts[side].aminmax()
        return Cut(
            lowest=float(lowest),
            highest=float(highest),
            ties=int(self._ties[side].sum()),
            ties_kept=int(surviving[side].sum()),
        )


@cache
def _digit_values(dtype: torch.dtype) -> torch.Tensor:
    """Return the least magnitude, float64, that has each value of the upper bits."""
    digits = torch.arange(1 << _BITS, device="cpu") << (8 * dtype.itemsize - 1 - _BITS)
    return magnitudes(digits, dtype).double()
