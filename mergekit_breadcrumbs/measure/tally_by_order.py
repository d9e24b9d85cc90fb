"""Counts and sums over a task vector of short slices, put in order by partial sorting.

What is small, kept and large lies apart then, with the cuts in between.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch

from mergekit_breadcrumbs.core.keys import magnitudes, non_finite_key
from mergekit_breadcrumbs.core.summation import float_sum
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.measure.meetings import as_array, square_sum
from mergekit_breadcrumbs.measure.report import Counts, Cut, Squares
from mergekit_breadcrumbs.measure.tally_by_count import (
    DIGIT,
    KEPT,
    LARGE,
    SMALL,
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
        # Of the fate that most have, all elements are counted until the end.
        self._fates = torch.zeros(3, 1 << self._digit, dtype=torch.long, device=device)
        self._most = SMALL if vector.counts.small > vector.counts.kept else KEPT
        self._squares: list[list[float]] = []
        self._cuts = torch.zeros(2, slices, dtype=torch.long, device=device)
        self._ties = np.zeros((2, 3), np.int64)

    def count(self, start: int, keys: torch.Tensor) -> None:
        """Add slices from an element on, whose keys `drop_small` has put in order.

        Any thread may do so, in any order: nothing is rounded before the end.
        """
        first, (small, kept, large) = start // self._vector.length, self._vector.counts
        parts = keys.tensor_split((small, small + kept), dim=1)
        infinity = keys.new_full((len(keys), 1), non_finite_key(self._vector.dtype))
        # The least that is not small, and the least that is large.
        lower = keys[:, [small]] if kept or large else infinity
        upper = parts[LARGE].amin(1, keepdim=True) if large else infinity
        ties = [[_equal(part, lower) for part in parts], self._upper_ties(parts, upper)]
        largest = int((parts[LARGE] if large else keys).amax())
        zero = 0
        if self._digit < self._width:
            # Zeros are small, unless the cut is one as well.
            among = parts[SMALL] if small and bool((lower > 0).all()) else keys
            zero = among.numel() - int(torch.count_nonzero(among))
            values = (magnitudes(part, self._vector.dtype) for part in parts)
            squares = [square_sum(each, self._vector.workspace) for each in values]
            self._squares.append(squares)
        fewer = KEPT if self._most == SMALL else SMALL
        digits = self._digits(keys)
        of_parts = digits.tensor_split((small, small + kept), dim=1)
        counted = [self._how_often(which) for which in (digits, of_parts[fewer])]
        few = of_parts[LARGE].reshape(-1).to(torch.long)
        with self._lock:
            self._vector.note_largest(largest)
            self._zero += zero
            self._fates[self._most] += counted[0]
            self._fates[fewer] += counted[1]
            self._fates[LARGE].index_add_(0, few, torch.ones_like(few))
            cuts = torch.cat((lower, upper), dim=1)
            self._cuts[:, first : first + len(keys)] = cuts.T
            self._ties += ties

    def _upper_ties(
        self, parts: Sequence[torch.Tensor], cut: torch.Tensor
    ) -> list[int]:
        """Return how many elements of each part equal their slice's upper cut."""
        small, kept, large = parts
        if kept.shape[1]:  # in few slices the largest one kept is as large as the cut
            tied = (kept[:, -1:] == cut)[:, 0].nonzero()[:, 0]
            own = cut[tied]
            under = [_equal(part[tied], own) for part in (small, kept)]
        else:
            under = [_equal(small, cut), 0]
        return [*under, _equal(large, cut)]

    def _digits(self, keys: torch.Tensor) -> torch.Tensor:
        """Return the upper bits of keys, int16, which are counted fastest."""
        if self._digit == self._width:
            return keys
        halves = keys.view(torch.int16).view(*keys.shape, -1)
        upper = halves[..., -1 if sys.byteorder == "little" else 0]
        return upper.bitwise_right_shift(15 - self._digit)

    def _how_often(self, digits: torch.Tensor) -> torch.Tensor:
        return torch.bincount(digits.reshape(-1), minlength=1 << self._digit)

    def result(self) -> Tallied:
        """Return what all slices add up to."""
        counts, slices = self._vector.counts, self._cuts.shape[1]
        fates = self._fates.clone()
        fates[self._most] -= fates.sum(0) - fates[self._most]
        values = digit_values(self._vector.dtype, self._digit).to(fates.device)
        squares = list(map(float_sum, zip(*self._squares, [0.0] * 3, strict=True)))
        zero = self._zero
        if self._digit == self._width:
            used = fates.sum(0).nonzero()[:, 0]
            weighed = fates[:, used] * values[used].square()
            squares, zero = weighed.sum(1).tolist(), int(fates[:, 0].sum())
        return Tallied(
            zero,
            Counts(**{name: n * slices for name, n in counts._asdict().items()}),
            Squares(**dict(zip(counts._fields, squares, strict=True))),
            self._cut(0, counts.small),
            self._cut(1, counts.large),
            in_bins(fates, values),
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
