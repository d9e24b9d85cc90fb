"""Counts and sums over a task vector of short slices, put in order by partial sorting.

What is small, kept and large lies apart then, with the cuts in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import magnitude_keys, magnitudes, non_finite_key
from mergekit_breadcrumbs.core.short_slices import ordered_keys
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.measure.report import Counts, Cut, Squares
from mergekit_breadcrumbs.measure.tally_by_count import (
    DIGIT,
    KEPT,
    LARGE,
    Tallied,
    digit_values,
    in_bins,
)


class ChunkTally(NamedTuple):
    """What one chunk adds; `slices` are those that it is of.

    `numbers` are the largest key, and how many are not zero. `ties` are how many of the
    small, kept and large elements are as large as the lower cut and as the upper one.
    """

    slices: slice
    numbers: torch.Tensor
    fates: torch.Tensor
    squares: torch.Tensor
    cuts: torch.Tensor
    ties: torch.Tensor


class TallyByOrder:
    """Tally of a task vector of short slices."""

    def __init__(self, vector: TaskVector) -> None:
        self._vector, device = vector, vector.device
        self._width = 8 * vector.dtype.itemsize - 1
        slices = vector.elements // vector.length if vector.length else 0
        self._nonzero = 0
        self._fates = torch.zeros(3, 1 << DIGIT, dtype=torch.long, device=device)
        self._squares = torch.zeros(3, dtype=torch.float64, device=device)
        self._cuts = torch.zeros(2, slices, dtype=torch.long, device=device)
        self._ties = torch.zeros(2, 3, dtype=torch.long, device=device)

    def count(self, chunk: tuple[int, int]) -> ChunkTally:
        """Return what a chunk of the vector adds; any thread may ask."""
        vector, counts = self._vector, self._vector.counts
        first = chunk[0] // vector.length
        keys = magnitude_keys(vector.delta(*chunk), overwrite=True)
        keys = ordered_keys(keys.view(-1, vector.length), counts.small, counts.kept)
        parts = self._parts(keys)
        cuts = self._cuts_between(keys, parts[LARGE])
        ties = [_equal(part, cut) for cut in cuts for part in parts]
        largest = (parts[LARGE] if counts.large else keys).amax()
        numbers = torch.stack([largest.long(), torch.count_nonzero(keys)])
        squares = torch.stack([self._square_sum(part) for part in parts])
        return ChunkTally(
            slice(first, first + len(keys)),
            numbers,
            self._fates_of(keys, parts),
            squares,
            torch.cat(cuts, dim=1).T,
            torch.stack(ties).view(2, 3),
        )

    def _parts(self, keys: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what is small, kept and large of slices in order."""
        small, kept, _ = self._vector.counts
        return keys.tensor_split((small, small + kept), dim=1)

    def _cuts_between(
        self, keys: torch.Tensor, large: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the least key that is not small and the least large one of slices.

        Each is [slices, 1], and infinity where there is none.
        """
        small = self._vector.counts.small
        infinity = keys.new_full((len(keys), 1), non_finite_key(self._vector.dtype))
        return (
            keys[:, [small]] if small < keys.shape[1] else infinity,
            large.amin(1, keepdim=True) if large.shape[1] else infinity,
        )

    def _square_sum(self, keys: torch.Tensor) -> torch.Tensor:
        values = magnitudes(keys, self._vector.dtype).double().reshape(-1)
        return values.dot(values)

    def _fates_of(
        self, keys: torch.Tensor, parts: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Count the upper bits of each part's keys, which are overwritten."""
        keys.bitwise_right_shift_(self._width - DIGIT)
        for fate in (KEPT, LARGE):
            parts[fate].add_(fate << DIGIT)
        fates = torch.bincount(keys.view(-1), minlength=3 << DIGIT)
        return fates.view(3, -1)

    def add(self, chunk: ChunkTally) -> None:
        """Add what `count` returned, chunk after chunk."""
        largest, nonzero = chunk.numbers.tolist()
        self._vector.note_largest(largest)
        self._nonzero += nonzero
        self._fates += chunk.fates
        self._squares += chunk.squares
        self._cuts[:, chunk.slices] = chunk.cuts
        self._ties += chunk.ties

    def upper_key(self, chunk: tuple[int, int]) -> torch.Tensor:
        """Return the least key that is dropped as large of each slice, [slices, 1]."""
        slices = slice(*(at // self._vector.length for at in chunk))
        keys = self._cuts[1, slices].view(-1, 1)
        return keys.to(getattr(torch, f"int{self._width + 1}"))

    def result(self) -> Tallied:
        """Return what all chunks add up to."""
        counts, slices = self._vector.counts, self._cuts.shape[1]
        values = digit_values(self._vector.dtype).to(self._fates.device)
        return Tallied(
            self._vector.elements - self._nonzero,
            Counts(**{name: n * slices for name, n in counts._asdict().items()}),
            Squares(**dict(zip(counts._fields, self._squares.tolist(), strict=True))),
            self._cut(0, counts.small),
            self._cut(1, counts.large),
            in_bins(self._fates, values),
        )

    def _cut(self, side: int, dropped: int) -> Cut | None:
        if not self._cuts.numel() or not 0 < dropped < self._vector.length:
            return None
        lowest, highest = magnitudes(self._cuts[side], self._vector.dtype).aminmax()
        ties = self._ties[side].tolist()
        return Cut(
            lowest=float(lowest),
            highest=float(highest),
            ties=sum(ties),
            ties_kept=ties[KEPT],
        )


def _equal(keys: torch.Tensor, cut: torch.Tensor) -> torch.Tensor:
    """Return how many keys equal their slice's cut."""
    # torch makes bools ten times as slowly as it subtracts integers.
    return keys.numel() - torch.count_nonzero(keys - cut)
