"""Counts and sums over a task vector of long slices, compared with their cuts.

Elements as large as a cut are told apart by how many there are: the selection ranks
them by position, but they count and weigh alike.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import magnitude_keys, magnitudes
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.core.workspace import Workspace
from mergekit_breadcrumbs.measure.report import Counts, Cut, Squares
from mergekit_breadcrumbs.measure.squares import square_sum
from mergekit_breadcrumbs.measure.tally_by_count import (
    DIGIT,
    KEPT,
    LARGE,
    SMALL,
    Tallied,
    digit_values,
    in_bins,
)

_LOWER, _UPPER = range(2)  # positions in tensors that have one entry for each cut


class ChunkTally(NamedTuple):
    """What one chunk, of one slice, adds.

    `below` and `ties` are how many elements are below each cut, and as large.
    """

    slice_index: int
    nonzero: torch.Tensor
    fates: torch.Tensor
    squares: torch.Tensor
    below: torch.Tensor
    ties: torch.Tensor


class TallyByCompare:
    """Tally of a task vector of long slices.

    Keys are compared by their differences: torch makes bools ten times as slowly.
    """

    def __init__(self, vector: TaskVector, workspace: Workspace) -> None:
        self._vector, self._workspace = vector, workspace
        device = vector.device
        self._width = 8 * vector.dtype.itemsize - 1
        self._shift = self._width - DIGIT
        self._nonzero = 0
        self._fates = torch.zeros(3, 1 << DIGIT, dtype=torch.long, device=device)
        self._squares = torch.zeros(3, dtype=torch.float64, device="cpu")
        keys = [(cuts.lower.key, cuts.upper.key) for cuts in vector.cuts]
        self._cuts = torch.tensor(keys, dtype=torch.long, device=device).T
        self._below, self._ties = (torch.zeros_like(self._cuts) for _ in range(2))

    def count(self, chunk: tuple[int, int]) -> ChunkTally:
        """Return what a chunk of the vector adds; any thread may ask."""
        slice_index = chunk[0] // self._vector.length
        slice_cuts = self._vector.cuts[slice_index]
        keys = magnitude_keys(self._vector.delta(*chunk), overwrite=True)
        nonzero = torch.count_nonzero(keys)
        index = self._memory("index", keys)
        torch.bitwise_right_shift(keys, self._shift, out=index).add_(LARGE << DIGIT)
        parts, below, ties = [], [], []
        for side, cut in enumerate((slice_cuts.lower.key, slice_cuts.upper.key)):
            part = torch.sub(keys, cut, out=self._memory(f"part {side}", keys))
            ties.append(len(part) - torch.count_nonzero(part))
            part.bitwise_right_shift_(self._width)  # -1 below the cut, else 0
            below.append(torch.count_nonzero(part))
            index.add_(part, alpha=1 << DIGIT)
            parts.append(part.bitwise_and_(keys))
        fates = torch.bincount(index, minlength=3 << DIGIT)
        small, kept = parts
        large = keys.bitwise_xor_(kept)
        kept.bitwise_xor_(small)
        values = (magnitudes(part, self._vector.dtype) for part in (small, kept, large))
        squares = [square_sum(each, self._workspace) for each in values]
        return ChunkTally(
            slice_index,
            nonzero,
            fates.view(3, -1),
            torch.tensor(squares, dtype=torch.float64, device="cpu"),
            torch.stack(below),
            torch.stack(ties),
        )

    def add(self, chunk: ChunkTally) -> None:
        """Add what `count` returned, chunk after chunk."""
        self._nonzero += int(chunk.nonzero)
        self._fates += chunk.fates
        self._squares += chunk.squares
        self._below[:, chunk.slice_index] += chunk.below
        self._ties[:, chunk.slice_index] += chunk.ties

    def upper_key(self, chunk: tuple[int, int]) -> int:
        """Return the key of the least element that is dropped as large, if any is."""
        return self._vector.cuts[chunk[0] // self._vector.length].upper.key

    def _memory(self, use: str, like: torch.Tensor) -> torch.Tensor:
        return self._workspace.memory(use, like.numel(), like.dtype)

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
            moved = float(torch.where(ties > 0, cuts[side].square() * ties, 0).sum())
            self._squares[to] += moved
            self._squares[source] -= moved
        ties = torch.stack([small, self._ties[_UPPER] - kept])
        # A tie that is dropped on the other side does not survive either.
        elsewhere = torch.where(self._cuts[0] == self._cuts[1], ties.flip(0), 0)
        surviving = self._ties - ties - elsewhere
        # What was moved may leave a rounding error where there is nothing.
        squares = self._squares.clamp(min=0) * torch.tensor(counts, device="cpu").sign()
        values = digit_values(vector.dtype).to(vector.device)
        number = len(vector.cuts)
        return Tallied(
            vector.elements - self._nonzero,
            Counts(**{k: n * number for k, n in counts._asdict().items()}),
            Squares(**dict(zip(counts._fields, squares.tolist(), strict=True))),
            self._cut(_LOWER, counts.small, cuts, surviving),
            self._cut(_UPPER, counts.large, cuts, surviving),
            in_bins(self._fates, values),
        )

    def _cut(
        self, side: int, dropped: int, cuts: torch.Tensor, surviving: torch.Tensor
    ) -> Cut | None:
        if not 0 < dropped < self._vector.length:
            return None
        lowest, highest = cuts[side].aminmax()
        return Cut(
            lowest=float(lowest),
            highest=float(highest),
            ties=int(self._ties[side].sum()),
            ties_kept=int(surviving[side].sum()),
        )
