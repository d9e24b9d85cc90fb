"""Counts and sums over one long task vector, from how often each magnitude occurs.

In a 16-bit dtype there are so few magnitudes that counting each tells everything: what
is small, kept or large follows from the ranks alone. For other dtypes, see
`tally_by_compare`.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import magnitude_keys, magnitudes
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.measure.report import (
    BINS_PER_OCTAVE,
    Counts,
    Cut,
    Histogram,
    Squares,
)

SMALL, KEPT, LARGE = range(3)
"""Positions in tensors that have one entry for each fate of an element."""

DIGIT = 13
"""Upper bits of a magnitude that tell its bin of a histogram, where not all bits do."""


class Tallied(NamedTuple):
    """What becomes of one task vector of one weight, named as in `TaskVectorReport`."""

    zero: int
    counts: Counts
    squares: Squares
    lower_cut: Cut | None
    upper_cut: Cut | None
    histogram: Histogram


class TallyByCount:
    """Tally of a 16-bit task vector that is ranked as a whole."""

    def __init__(self, vector: TaskVector) -> None:
        self._vector = vector
        self._keys = torch.zeros(1 << 15, dtype=torch.long, device=vector.device)

    def count(self, chunk: tuple[int, int]) -> torch.Tensor:
        """Return what a chunk of the vector adds; any thread may ask."""
        keys = magnitude_keys(self._vector.delta(*chunk), overwrite=True)
        return torch.bincount(keys, minlength=len(self._keys))

    def add(self, counts: torch.Tensor) -> None:
        """Add what `count` returned."""
        self._keys += counts

    def upper_key(self, chunk: tuple[int, int]) -> int:
        """Return the key of the least element that is dropped as large, if any is.

        The whole vector must have been added.
        """
        return self._upper_key

    @cached_property
    def _upper_key(self) -> int:
        counts = self._vector.counts
        rank = counts.small + counts.kept
        return int(torch.searchsorted(self._keys.cumsum(0), rank, right=True))

    def result(self) -> Tallied:
        """Return what all chunks add up to."""
        vector, counts = self._vector, self._vector.counts
        keys = self._keys.nonzero()[:, 0]
        number = self._keys[keys]
        values = magnitudes(keys, vector.dtype).double()
        upto = number.cumsum(0)
        below = upto - number
        first_large = counts.small + counts.kept
        smalls = (upto.clamp(max=counts.small) - below).clamp(min=0)
        larges = (upto - below.clamp(min=first_large)).clamp(min=0)
        fates = torch.stack([smalls, number - smalls - larges, larges])
        small, kept, large = (fates * values.square()).sum(1).tolist()

        def cut(dropped: int, rank: int) -> Cut | None:
            """Return the cut at the element of a rank, if there is one."""
            if not 0 < dropped < vector.length:
                return None
            at = int(torch.searchsorted(upto, rank, right=True))
            ties, value = fates[:, at], float(values[at])
            return Cut(
                lowest=value,
                highest=value,
                ties=int(ties.sum()),
                ties_kept=int(ties[KEPT]),
            )

        return Tallied(
            int(self._keys[0]),
            Counts(**counts._asdict()),
            Squares(small=small, kept=kept, large=large),
            cut(counts.small, counts.small),
            cut(counts.large, first_large),
            in_bins(fates, values),
        )


@cache
def digit_values(dtype: torch.dtype, digit: int = DIGIT) -> torch.Tensor:
    """Return the least magnitude, float64, that has each value of the upper bits."""
    shift = 8 * dtype.itemsize - 1 - digit
    digits = torch.arange(1 << digit, device="cpu") << shift
    return magnitudes(digits, dtype).double()


def in_bins(fates: torch.Tensor, values: torch.Tensor) -> Histogram:
    """Gather counts by value in bins that do not depend on the dtype."""
    used = (fates.sum(0) > 0) & (values > 0)
    if not used.any():
        return Histogram(first_bin=0, small=[], kept=[], large=[])
    bins = (values[used].log2() * BINS_PER_OCTAVE).floor().long()
    first, last = int(bins[0]), int(bins[-1])
    gathered = fates.new_zeros(3, last - first + 1)
    gathered.index_add_(1, bins - first, fates[:, used])
    small, kept, large = gathered.tolist()
    return Histogram(first_bin=first, small=small, kept=kept, large=large)
