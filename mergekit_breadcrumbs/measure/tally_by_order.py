"""Counts and sums over a task vector of short slices, put in order by partial sorting.

What is small, kept and large lies apart then, with the cuts in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch

from mergekit_breadcrumbs.core.keys import magnitudes, non_finite_key
from mergekit_breadcrumbs.core.summation import float_sum
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.measure.meetings import as_array
from mergekit_breadcrumbs.measure.report import Counts, Cut, Squares
from mergekit_breadcrumbs.measure.tally_by_count import (
    DIGIT,
    KEPT,
    LARGE,
    Tallied,
    digit_values,
    in_bins,
)


class TallyByOrder:
    """Tally of a task vector of short slices."""

    def __init__(self, vector: TaskVector) -> None:
        self._vector, device = vector, vector.device
        self._width = 8 * vector.dtype.itemsize - 1
        # Of a 16-bit key all bits are counted, and that tells what squares add up to.
        self._digit = self._width if self._width < 16 else DIGIT
        slices = vector.elements // vector.length if vector.length else 0
        self._lock, self._zero = Lock(), 0
        self._fates = torch.zeros(3, 1 << self._digit, dtype=torch.long, device=device)
        self._squares: list[list[float]] = []
        self._cuts = torch.zeros(2, slices, dtype=torch.long, device=device)
        self._ties = np.zeros((2, 3), np.int64)

    def count(self, start: int, keys: torch.Tensor) -> None:
        """Add slices from an element on, whose ordered keys are overwritten.

        Any thread may do so, in any order: nothing is rounded before the end.
        """
        first, (small, kept, large) = start // self._vector.length, self._vector.counts
        parts = keys.tensor_split((small, small + kept), dim=1)
        infinity = keys.new_full((len(keys), 1), non_finite_key(self._vector.dtype))
        # The least that is not small, and the least that is large.
        cuts = (
            keys[:, [small]] if kept or large else infinity,
            parts[LARGE].amin(1, keepdim=True) if large else infinity,
        )
        ties = [[_equal(part, cut) for part in parts] for cut in cuts]
        largest = int((parts[LARGE] if large else keys).amax())
        zero = 0
        if self._digit < self._width:
            zero = keys.numel() - int(torch.count_nonzero(keys))
            self._squares.append([self._square_sum(part) for part in parts])
        fates = self._fates_of(keys, parts)
        with self._lock:
            self._vector.note_largest(largest)
            self._zero += zero
            self._fates += fates
            self._cuts[:, first : first + len(keys)] = torch.cat(cuts, dim=1).T
            self._ties += ties

    def _square_sum(self, keys: torch.Tensor) -> float:
        values = magnitudes(keys, self._vector.dtype).double().reshape(-1)
        return float(values.dot(values))

    def _fates_of(
        self, keys: torch.Tensor, parts: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Count the upper bits of each part's keys, which are overwritten."""
        if self._digit < self._width:
            keys.bitwise_right_shift_(self._width - self._digit)
        for fate in (KEPT, LARGE):
            parts[fate].add_(fate << self._digit)
        fates = torch.bincount(keys.view(-1), minlength=3 << self._digit)
        return fates.view(3, -1)

    def result(self) -> Tallied:
        """Return what all slices add up to."""
        counts, slices = self._vector.counts, self._cuts.shape[1]
        values = digit_values(self._vector.dtype, self._digit).to(self._fates.device)
        squares = list(map(float_sum, zip(*self._squares, [0.0] * 3, strict=True)))
        zero = self._zero
        if self._digit == self._width:
            used = self._fates.sum(0).nonzero()[:, 0]
            weighed = self._fates[:, used] * values[used].square()
            squares, zero = weighed.sum(1).tolist(), int(self._fates[:, 0].sum())
        return Tallied(
            zero,
            Counts(**{name: n * slices for name, n in counts._asdict().items()}),
            Squares(**dict(zip(counts._fields, squares, strict=True))),
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


def _equal(keys: torch.Tensor, cut: torch.Tensor) -> int:
    """Return how many keys equal their slice's cut."""
    equal = as_array(keys) == as_array(cut)
    return int(
        equal.sum() if isinstance(equal, torch.Tensor) else np.count_nonzero(equal)
    )
