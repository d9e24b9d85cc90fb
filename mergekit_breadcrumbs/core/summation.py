"""By which numbers survivors are weighted, summed and scaled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import value_key

TINY_WEIGHT = 1e-8
"""Sums of weights under this are not divided by, as in mergekit."""


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which values of `dtype` are weighted and summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Summation(NamedTuple):
    """How survivors are summed: `scaled` is the weights times what rescaling asks."""

    weight: tuple[float, ...]
    scaled: tuple[float, ...]
    lambda_: float
    normalize: bool
    elect_sign: bool

    def rescaled(self, factors: Sequence[float]) -> Summation:
        """Return the same with each model's survivors multiplied by its factor."""
        scaled = (w * factor for w, factor in zip(self.weight, factors, strict=True))
        return self._replace(scaled=tuple(scaled))

    def factor(self) -> float:
        """Return what the sum is multiplied by where every element has the same.

        NaN where the sum of the weights is too large for a float.
        """
        if not self.normalize:
            return self.lambda_
        divisor = float_sum(self.weight)
        if not math.isfinite(divisor):
            return math.nan
        return self.lambda_ / (1.0 if abs(divisor) < TINY_WEIGHT else divisor)

    def least_divisor(self) -> float:
        """Return what weights that agree in sign of their survivors divide by at least.

        Weights of both signs may cancel.
        """
        used = [weight for weight in self.weight if weight]
        if len({weight > 0 for weight in used}) > 1:
            return TINY_WEIGHT
        return min(1.0, max(TINY_WEIGHT, min(map(abs, used), default=1.0)))


@lru_cache(maxsize=256)  # most tensors of a merge have the same weights
def safe_key(how: Summation, dtype: torch.dtype) -> int:
    """Return a key: if those of all survivors are under it, no result can overflow.

    A finite base and something under half the distance between the two largest numbers
    add up to a finite number. Nearly every merge is told by this alone to be finite,
    and no element is looked at. Room is left for roundings: what is added may be half
    as large, and what is summed an eighth of the largest number.
    """
    info, most = torch.finfo(dtype), torch.finfo(work_dtype(dtype)).max / 8
    numbers, factor, divisor = sum(map(abs, how.scaled)), abs(how.lambda_), 1.0
    if not how.elect_sign:
        factor = abs(how.factor())
    elif how.normalize:
        numbers += sum(map(abs, how.weight))
        divisor = how.least_divisor()
    if not (numbers < most and factor < most):
        return 0
    safe = most * divisor / max(numbers, 1.0)
    if numbers * factor:
        safe = min(safe, info.max * info.eps / 8 * divisor / (numbers * factor))
    return value_key(min(safe, info.max), dtype)


def float_sum(numbers: Iterable[float]) -> float:
    """Return the exactly rounded sum, infinite or NaN where no float is so large."""
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # the latter for infinities of both signs
        return math.nan
