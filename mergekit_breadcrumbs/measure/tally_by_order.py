"""Counts and sums over a task vector of short slices, put in order by partial sorting.

What is small, kept and large lies apart then, with the cuts in between.
"""

from __future__ import annotations

import math
from threading import Lock
from typing import Any

import numpy as np
import torch

from mergekit_breadcrumbs.core.keys import magnitudes, non_finite_key
from mergekit_breadcrumbs.core.summation import float_sum
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.measure.meetings import as_array
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


class TallyByOrder:
    """Tally of a task vector of short slices."""

    def __init__(self, vector: TaskVector) -> None:
        self._vector, device = vector, vector.device
        self._on: Any = np if vector.workspace.on_cpu else torch
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
        # With NumPy where it can be: torch lets go of Python's lock at each step,
        # however small, and with two threads that cost ten microseconds a time.
        on, array, counts = self._on, as_array(keys), self._vector.counts
        parts = self._parts(array)
        largest = int(on.amax(parts[LARGE] if counts.large else array))
        infinity = on.full_like(array[:, :1], non_finite_key(self._vector.dtype))
        # The least that is not small, and the least that is large.
        small = counts.small
        lower = array[:, small : small + 1] if counts.kept or counts.large else infinity
        upper = infinity
        if counts.large:
            upper = on.amin(parts[LARGE], axis=1, keepdims=True)
        equal = self._parts(array == lower)
        ties = [list(map(self._count, equal)), self._upper_ties(parts, upper)]
        zero = 0
        if self._digit < self._width:
            # Zeros are small, unless the cut is one as well.
            among = parts[SMALL] if counts.small and bool((lower > 0).all()) else array
            zero = math.prod(among.shape) - self._count(among)
            values = magnitudes(keys, self._vector.dtype)
            self._squares.append([self._square_sum(v) for v in self._parts(values)])
        fewer = KEPT if self._most == SMALL else SMALL
        digits = self._digits(keys)
        of_parts = self._parts(digits)
        of_fates = {self._most: digits, fewer: of_parts[fewer], LARGE: of_parts[LARGE]}
        counted = {fate: self._how_often(each) for fate, each in of_fates.items()}
        slices = slice(start // self._vector.length, None)
        for own, cut in zip(self._cuts, (lower, upper), strict=True):
            as_array(own[slices])[: len(cut)] = cut[:, 0]
        with self._lock:
            self._vector.note_largest(largest)
            self._zero += zero
            self._ties += ties
            for fate, often in counted.items():
                self._fates[fate] += often

    def _parts(self, slices: Any) -> tuple[Any, Any, Any]:
        """Return what is small, kept and large of slices in order."""
        small, kept, _ = self._vector.counts
        last = small + kept
        return slices[:, :small], slices[:, small:last], slices[:, last:]

    def _upper_ties(self, parts: tuple[Any, Any, Any], cut: Any) -> list[int]:
        """Return how many elements of each part equal their slice's upper cut."""
        small, kept, large = parts
        if kept.shape[1]:  # in few slices the largest one kept is as large as the cut
            tied = kept[:, -1] == cut[:, 0]
            under = [self._count(part[tied] == cut[tied]) for part in (small, kept)]
        else:
            under = [self._count(small == cut), 0]
        return [*under, self._count(large == cut)]

    def _count(self, values: Any) -> int:
        return int(self._on.count_nonzero(values))

    def _square_sum(self, values: torch.Tensor) -> float:
        return square_sum(values, self._vector.workspace)

    def _digits(self, keys: torch.Tensor) -> torch.Tensor:
        """Return the upper bits of keys, int16, which are counted fastest."""
        if self._digit == self._width:
            return keys
        shift, workspace = self._width - self._digit, self._vector.workspace
        if not workspace.on_cpu:
            return keys.bitwise_right_shift(shift).to(torch.int16)
        digits = workspace.memory("digits", keys.numel(), torch.int16).view(keys.shape)
        np.right_shift(keys.numpy(), shift, out=digits.numpy(), casting="unsafe")
        return digits

    def _how_often(self, digits: torch.Tensor) -> torch.Tensor:
        return torch.bincount(digits.reshape(-1), minlength=1 << self._digit)

    def result(self) -> Tallied:
        """Return what all slices add up to."""
        counts, slices = self._vector.counts, self._cuts.shape[1]
        used = self._fates[self._most].nonzero()[:, 0]
        fates = self._fates[:, used]
        fates[self._most] -= fates.sum(0) - fates[self._most]
        values = digit_values(self._vector.dtype, self._digit).to(used.device)[used]
        squares = list(map(float_sum, zip(*self._squares, [0.0] * 3, strict=True)))
        zero = self._zero
        if self._digit == self._width:
            squares = (fates * values.square()).sum(1).tolist()
            zero = int(fates[:, values == 0].sum())
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
