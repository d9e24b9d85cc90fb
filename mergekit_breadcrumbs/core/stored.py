"""What a breadcrumb file holds of one fine-tuned weight, and putting it together."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mergekit_breadcrumbs.core.keys import bits_of
from mergekit_breadcrumbs.core.positions import DamagedPositionsError, Positions
from mergekit_breadcrumbs.core.selection import Granularity, SliceCounts
from mergekit_breadcrumbs.core.workspace import split

SAMPLED = 1 << 10
"""Of every so many elements one is in the checksum, whether it is stored or not."""

_CHUNK = 1 << 22  # elements put together at a time
_WRAPPED = 1 << 64


class WrongBaseError(ValueError):
    """The base is not the one that a file was made from."""


def top_counts(length: int, fraction: float) -> SliceCounts:
    """Say how many elements of one slice are stored: the largest, as survivors.

    Enough for every density and gamma with a sum of at most `fraction`, in (0, 1],
    whatever the roundings of floats.

    Example:
        >>> top_counts(7, 0.2)
        SliceCounts(small=5, kept=2, large=0)
    """
    stored = min(math.ceil(fraction * length), length)
    return SliceCounts(length - stored, stored, 0)


def checksum_part(values: torch.Tensor, positions: torch.Tensor, start: int) -> int:
    """Return the sum of `bits * (2 * position + 1)`, of which the lowest 64 bits count.

    Bits are read as a signed integer of the element's width. Parts of a tensor add up,
    in any order.

    Args:
        values: flat, of any dtype.
        positions: int64, of these values, counted from `start`.
        start: where positions begin to be counted.
    """
    bits = bits_of(values).to(torch.int64, copy=True)
    total, by_position = int(bits.sum()), int(bits.mul_(positions).sum())
    return 2 * by_position + (2 * start + 1) * total


def sampled_part(part: torch.Tensor, start: int) -> int:
    """Return what the elements that are always looked at add to a checksum.

    Args:
        part: flat, the base's elements from `start` on.
        start: position of the first of them.
    """
    first = -start % SAMPLED
    values = part[first::SAMPLED]
    positions = torch.arange(first, len(part), SAMPLED, device=part.device)
    return checksum_part(values, positions, start)


def as_text(checksum: int) -> str:
    """Return a checksum as a manifest has it, 16 hexadecimal digits.

    Example:
        >>> as_text(-1)
        'ffffffffffffffff'
    """
    return f"{checksum % _WRAPPED:016x}"


@dataclass(frozen=True)
class Stored:
    """What is stored of one fine-tuned weight: the elements that changed the most.

    Args:
        shape: of the weight.
        positions: of what is stored in the flat weight.
        values: fine-tuned values, [stored].
        base_dtype: of the base's weight.
        ranked_in: dtype in which task vectors are formed; None for integers.
        fraction: of each slice that is stored, in (0, 1]; 1 for all that changed.
        granularity: what a slice is.
        norm: `||delta||_1 * norm_scale` of the whole task vector.
        norm_scale: 1, or less where the sum is over any float64.
        checksum: of the base, as in a manifest.
        tensor: what the weight is called.
        file: the folder that it is stored in.
        made_from: the base that the file was made from.
        added_to: the base that it is used with.
    """

    shape: tuple[int, ...]
    positions: Positions
    values: torch.Tensor
    base_dtype: torch.dtype
    ranked_in: torch.dtype | None
    fraction: float
    granularity: Granularity
    norm: float
    norm_scale: float
    checksum: str
    tensor: str
    file: str
    made_from: str
    added_to: str

    @property
    def is_lossless(self) -> bool:
        """Whether everything that changed is stored."""
        return self.fraction == 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weight when it is put together."""
        if self.is_lossless:
            return self.values.dtype
        return torch.promote_types(self.base_dtype, self.values.dtype)

    def between(self, start: int, stop: int) -> tuple[int, torch.Tensor]:
        """Return how many positions come before `start`, and those up to `stop`.

        The latter, int64 [stored], are counted from `start`.

        Raises:
            ValueError: naming file and tensor, if there are no ascending positions.
        """
        try:
            return self.positions.between(start, stop)
        except DamagedPositionsError as error:
            raise self.damaged(error) from error

    def ranked(self, start: int, stop: int) -> torch.Tensor:
        """Return the positions of ranks from `start` to `stop`; see `between`."""
        try:
            return self.positions.ranked(start, stop)
        except DamagedPositionsError as error:
            raise self.damaged(error) from error

    def damaged(self, why: object) -> ValueError:
        """Return the error of a tensor that cannot be read."""
        return DamagedPositionsError(
            f"{self.file} is damaged, tensor {self.tensor}: {why}"
        )

    def put_together(self, base: torch.Tensor) -> torch.Tensor:
        """Return the fine-tuned weight: the base with what is stored.

        Args:
            base: the base's weight, of the dtype that it was made from or is ranked in.

        Returns:
            Tensor of `base`'s shape and device, and of `dtype`.

        Raises:
            WrongBaseError: if the base is not the one that this was made from.
            ValueError: if what is stored is damaged.
        """
        self.require_shape(base)
        flat, device, total = base.reshape(-1), base.device, 0
        merged = flat.to(self.dtype, copy=True)
        for start, stop, rank, positions in self._chunks():
            positions = positions.to(device)
            ranked = flat[start:stop].to(self.ranked_in or base.dtype)
            old = ranked.index_select(0, positions)
            total += checksum_part(old, positions, start) + sampled_part(ranked, start)
            new = self.values[rank : rank + len(positions)]
            merged[start:stop].index_copy_(0, positions, new.to(device, self.dtype))
        self.require_checksum(total)
        return merged.view(base.shape)

    def _chunks(self) -> Iterator[tuple[int, int, int, torch.Tensor]]:
        for start, stop in split(math.prod(self.shape), _CHUNK):
            yield start, stop, *self.between(start, stop)

    def require_shape(self, base: torch.Tensor) -> None:
        """Raise WrongBaseError if a base's weight is not of the shape of this one."""
        if tuple(base.shape) != self.shape:
            raise self._wrong_base(
                f"is of shape {tuple(base.shape)} there, not {self.shape}"
            )

    def require_checksum(self, total: int) -> None:
        """Raise WrongBaseError if this is not the base's checksum."""
        if as_text(total) != self.checksum:
            raise self._wrong_base("has other values there")

    def _wrong_base(self, how: str) -> WrongBaseError:
        same = os.path.realpath(self.made_from) == os.path.realpath(self.added_to)
        made_from = (
            f"{self.file} is damaged, or {self.made_from} has changed since it was made"
            if same
            else f"{self.file} was made from another base: {self.made_from}, not"
            f" {self.added_to}"
        )
        return WrongBaseError(f"{made_from} (tensor {self.tensor} {how})")
