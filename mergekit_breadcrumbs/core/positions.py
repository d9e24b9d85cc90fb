"""Which positions of a tensor are stored, in little more than the fewest bits.

Where at least a quarter of the elements are stored, a mask has a bit for each. Where
they are fewer, the lowest bits of each position are kept as they are, and what is above
them in unary (an Elias-Fano code): a position `p` that is the i-th sets the bit
`(p >> low_bits) + i`. Elements are counted in blocks, so that a few of them are found
without reading what comes before.

Source: Elias, "Efficient storage and retrieval by content and address of static files",
J. ACM 21 (1974).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

BLOCK = 1 << 16
"""Elements of a tensor that are counted together."""

LOW_BITS = (2, 4, 8)
"""How many bits of a position may be kept as they are."""

Array = npt.NDArray[np.int64]


class DamagedPositionsError(ValueError):
    """What is said to be positions cannot be any."""


@dataclass(frozen=True)
class Positions:
    """Ascending positions in a flat tensor.

    Args:
        elements: how many elements the tensor has.
        low_bits: how many bits of each position are in `low`; None for a mask.
        counts: int32 [blocks], how many elements of each block are stored.
        bits: uint8 [bytes], the mask or the upper bits in unary, lowest bit first.
        low: uint8 [bytes], the lowest bits of each position, lowest bits first.

    Raises:
        DamagedPositionsError: if the sizes of these do not go together.

    Example:
        >>> from mergekit_breadcrumbs.core.positions_builder import PositionsBuilder
        >>> stored = PositionsBuilder(100)
        >>> stored.add(torch.tensor([3, 50, 99]))
        >>> positions = stored.finish()
        >>> positions.between(10, 100)
        (1, tensor([40, 89]))
    """

    elements: int
    low_bits: int | None
    counts: torch.Tensor
    bits: torch.Tensor
    low: torch.Tensor

    @classmethod
    def none(cls, elements: int) -> Positions:
        """Return no positions in a tensor of any size."""
        counts, empty = torch.empty(0, dtype=torch.int32), torch.empty(0).byte()
        return cls(elements, None, counts, empty, empty)

    def __post_init__(self) -> None:
        if len(self.counts) == len(self.bits) == len(self.low) == 0:
            return
        blocks = -(-self.elements // BLOCK)
        if self.low_bits not in (None, *LOW_BITS):
            raise DamagedPositionsError(
                f"low_bits must be none, 2, 4 or 8; got {self.low_bits}"
            )
        if len(self.counts) != blocks:
            raise DamagedPositionsError(
                f"counts must have {blocks} elements; got {len(self.counts)}"
            )
        counts = self.counts.numpy()
        if blocks and not (counts.min() >= 0 and counts.max() <= BLOCK):
            raise DamagedPositionsError(f"counts must be in [0, {BLOCK}]")
        low = -(-self.stored * (self.low_bits or 0) // 8)
        sizes = {"bits": (self.bits, -(-self._bits_upto(blocks) // 8))}
        for name, (given, size) in {**sizes, "low": (self.low, low)}.items():
            if len(given) != size:
                raise DamagedPositionsError(
                    f"{name} must have {size} bytes; got {len(given)}"
                )

    @cached_property
    def _before(self) -> Array:
        """How many elements are stored before each block, and in all."""
        sums = np.zeros(len(self.counts) + 1, dtype=np.int64)
        np.cumsum(self.counts.numpy(), out=sums[1:])
        return sums

    @property
    def stored(self) -> int:
        """How many positions there are."""
        return int(self._before[-1])

    def between(self, start: int, stop: int) -> tuple[int, torch.Tensor]:
        """Return how many positions come before `start`, and those up to `stop`.

        The latter, int64 [stored], are counted from `start`.

        Raises:
            DamagedPositionsError: if what is stored there is no ascending positions.
        """
        if start >= stop or not self.stored:
            return 0, torch.empty(0, dtype=torch.int64)
        first, last = start // BLOCK, -(-stop // BLOCK)
        found, rank = self._decoded(first, last), int(self._before[first])
        offset = start - first * BLOCK
        if offset or stop < min(last * BLOCK, self.elements):
            a, b = np.searchsorted(found, (offset, offset + stop - start)).tolist()
            found, rank = found[a:b], rank + a
            found -= offset
        return rank, torch.from_numpy(found)

    def ranked(self, start: int, stop: int) -> torch.Tensor:
        """Return the positions of ranks from `start` to `stop`, int64 [stop - start].

        Raises:
            DamagedPositionsError: if what is stored there is no ascending positions.
        """
        if start >= stop:
            return torch.empty(0, dtype=torch.int64)
        first = int(np.searchsorted(self._before, start, side="right")) - 1
        last = int(np.searchsorted(self._before, stop, side="left"))
        before = int(self._before[first])
        found = self._decoded(first, last)[start - before : stop - before]
        found += first * BLOCK
        return torch.from_numpy(found)

    def rank(self, position: int) -> int:
        """Return how many of the positions are under the given one."""
        if not self.stored:
            return 0
        block = position // BLOCK
        if block * BLOCK == position:
            return int(self._before[block])
        first, found = self.between(block * BLOCK, position)
        return first + len(found)

    def _bits_upto(self, block: int) -> int:
        """Return how many bits stand for what is before a block."""
        elements = min(block * BLOCK, self.elements)
        if self.low_bits is None:
            return elements
        return -(-elements // (1 << self.low_bits)) + int(self._before[block])

    def _decoded(self, first: int, last: int) -> Array:
        """Return the positions in some blocks, counted from where these begin."""
        start, stop = self._bits_upto(first), self._bits_upto(last)
        packed = self.bits.numpy()[start // 8 : -(-stop // 8)]
        bits = np.unpackbits(packed, bitorder="little")
        bits = bits[start % 8 : start % 8 + stop - start]
        found = np.flatnonzero(bits.view(bool))
        a, b = int(self._before[first]), int(self._before[last])
        if len(found) != b - a:
            raise DamagedPositionsError(
                f"{b - a} elements are counted, and {len(found)} positions are stored"
            )
        if self.low_bits is not None:
            found <<= self.low_bits
            found -= _ranks_above(self.low_bits, b - a)
            found |= _unpacked(self.low.numpy(), a, b, self.low_bits)
            if b - a > 1 and not (found[1:] > found[:-1]).all():
                raise DamagedPositionsError("the positions are not ascending")
        inside = np.searchsorted(found, np.arange(1, last - first) * BLOCK)
        if not np.array_equal(inside, self._before[first + 1 : last] - a):
            raise DamagedPositionsError("positions are in other blocks than counted")
        if b > a and found[-1] >= min(last * BLOCK, self.elements) - first * BLOCK:
            raise DamagedPositionsError(
                f"position {found[-1] + first * BLOCK} is out of range: there are"
                f" {self.elements} elements"
            )
        return found


def _unpacked(
    packed: npt.NDArray[np.uint8], start: int, stop: int, width: int
) -> npt.NDArray[np.uint8]:
    """Return the numbers from `start` to `stop` of those that `_Packer` packed."""
    each = 8 // width
    part = packed[start // each : -(-stop // each)]
    if width == 4:
        pairs = part.astype("<u2")
        pairs |= pairs << 4
        part = (pairs & 0x0F0F).view(np.uint8)
    elif width == 2:
        fours = part.astype("<u4")
        fours |= fours << 12
        fours &= 0x000F000F
        fours |= fours << 6
        part = (fours & 0x03030303).view(np.uint8)
    offset = start % each
    return part[offset : offset + stop - start]


_above: dict[int, Array] = {}


def _ranks_above(low_bits: int, count: int) -> Array:
    """Return the numbers up to `count`, above so many bits; kept for the next time."""
    ranks = _above.get(low_bits)
    if ranks is None or len(ranks) < count:
        ranks = _above[low_bits] = np.arange(max(count, BLOCK)) << low_bits
    return ranks[:count]
