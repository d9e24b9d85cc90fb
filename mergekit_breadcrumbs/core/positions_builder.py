"""Encoding which positions of a tensor are stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from mergekit_breadcrumbs.core.positions import BLOCK, Array, Positions


class PositionsBuilder:
    """Takes ascending positions in parts, and encodes them.

    Args:
        elements: how many elements the tensor has.
    """

    def __init__(self, elements: int) -> None:
        self._elements = elements
        self._counts = np.zeros(-(-elements // BLOCK), dtype=np.int32)
        # Positions within a block: a quarter of what the whole ones would take.
        self._parts: list[npt.NDArray[np.uint16]] = []

    def add(self, positions: torch.Tensor) -> None:
        """Add int64 positions that are all over those added before."""
        array = positions.numpy()
        blocks, counts = np.unique(array // BLOCK, return_counts=True)
        self._counts[blocks] += counts.astype(np.int32)
        self._parts.append((array % BLOCK).astype(np.uint16))

    @property
    def stored(self) -> int:
        """How many positions were added."""
        return int(self._counts.sum())

    def finish(self, low_bits: int | Literal["mask", "best"] = "best") -> Positions:
        """Return all positions that were added, in the code that takes the least.

        With `low_bits`, in that one.
        """
        if low_bits == "best":
            chosen = best_low_bits(self._elements, self.stored)
        else:
            chosen = None if low_bits == "mask" else low_bits
        return self._encoded(chosen)

    def _encoded(self, low_bits: int | None) -> Positions:
        within = np.concatenate(self._parts) if self._parts else np.empty(0, np.uint16)
        self._parts.clear()
        bits, low = _Packer(1), _Packer(low_bits or 1)
        for block, part in enumerate(_split(within, self._counts)):
            length = min(BLOCK, self._elements - block * BLOCK)
            if low_bits is None:
                ones = part
            else:
                length = -(-length // (1 << low_bits)) + len(part)
                ones = (part >> low_bits) + np.arange(len(part))
                low.add((part & ((1 << low_bits) - 1)).astype(np.uint8))
            unary = np.zeros(length, dtype=np.uint8)
            unary[ones] = 1
            bits.add(unary)
        packed = [torch.from_numpy(packer.finish()) for packer in (bits, low)]
        counts = torch.from_numpy(self._counts)
        return Positions(self._elements, low_bits, counts, *packed)


def best_low_bits(elements: int, stored: int) -> int | None:
    """Return the code that takes the least for so many of the elements.

    Where 2 and 4 bits take nearly the same it is 4, which is read faster.

    Example:
        >>> [best_low_bits(1000, stored) for stored in (1, 100, 200, 300)]
        [8, 4, 2, None]
    """
    sparse = elements / max(stored, 1)
    if sparse < 4.2:  # a mask takes `sparse` bits, 2 low bits take 3 + sparse / 4
        return None
    return 2 if sparse < 8 else 4 if sparse < 68 else 8


class _Packer:
    """Packs numbers of a few bits into bytes, lowest bits first, part after part."""

    def __init__(self, width: int) -> None:
        self._width, self._done = width, list[npt.NDArray[np.uint8]]()
        self._rest = np.empty(0, np.uint8)

    def add(self, numbers: npt.NDArray[np.uint8]) -> None:
        numbers = np.concatenate([self._rest, numbers])
        whole = len(numbers) // (8 // self._width) * (8 // self._width)
        self._pack(numbers[:whole])
        self._rest = numbers[whole:]

    def finish(self) -> npt.NDArray[np.uint8]:
        missing = -len(self._rest) % (8 // self._width)
        self._pack(np.pad(self._rest, (0, missing)))
        return np.concatenate(self._done)

    def _pack(self, numbers: npt.NDArray[np.uint8]) -> None:
        if self._width == 1:
            self._done.append(np.packbits(numbers, bitorder="little"))
            return
        columns = numbers.reshape(-1, 8 // self._width)
        packed = columns[:, 0].copy()
        for index in range(1, columns.shape[1]):
            packed |= columns[:, index] << (index * self._width)
        self._done.append(packed)


def _split(
    within: npt.NDArray[np.uint16], counts: npt.NDArray[np.int32]
) -> Iterator[Array]:
    start = 0
    for count in counts.tolist():
        yield within[start : start + count].astype(np.int64)
        start += count
