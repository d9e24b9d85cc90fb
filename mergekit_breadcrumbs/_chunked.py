"""One task vector, formed and thinned out a chunk at a time.

A task vector in full would be as large as the model's weight itself. Here only a chunk
of it exists at any time, in memory that is used again for the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from mergekit_breadcrumbs.counting import (
    chunks,
    key_value,
    magnitude_keys,
    non_finite_key,
)
from mergekit_breadcrumbs.selection import (
    SHORT_SLICE,
    Cuts,
    Granularity,
    dropped,
    find_cuts,
    slice_counts,
    slice_length,
    survivor_ranges,
)

_NORM_BLOCK = 4096


class Scratch:
    """Memory for one chunk, by use; asking the system anew costs more than the sums."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def get(self, use: str, elements: int, dtype: torch.dtype) -> torch.Tensor:
        """Return uninitialised memory, the same for the same use."""
        memory = self._memory.get((use, dtype))
        if memory is None or memory.numel() < elements:
            memory = torch.empty(elements, dtype=dtype, device=self._device)
            self._memory[use, dtype] = memory
        return memory if memory.numel() == elements else memory[:elements]


def flattened(tensor: torch.Tensor) -> torch.Tensor:
    """Return a flat view where there is one, for `read`, else the tensor itself."""
    return tensor.view(-1) if tensor.is_contiguous() else tensor


def read(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Return elements of a tensor by flat position, copying hardly more than those."""
    if tensor.ndim == 1:
        whole = start == 0 and stop == tensor.numel()
        return tensor if whole else tensor[start:stop]
    inner = tensor.numel() // tensor.shape[0]
    first, last = start // inner, -(-stop // inner)
    offset = first * inner
    if last - first == 1:
        return read(tensor[first], start - offset, stop - offset)
    return tensor[first:last].reshape(-1)[start - offset : stop - offset]


class ChunkedTaskVector:
    """`finetuned - base` of one weight, and which of its elements survive.

    Args:
        base: the base weight, any shape, floating dtype, any device.
        finetuned: the fine-tuned weight, of the same kind.
        density: fraction kept, in [0, 1].
        gamma: fraction of the largest dropped, in [0, 1].
        granularity: what a slice is.
        scratch: memory, which several task vectors may share if they take turns.
    """

    def __init__(
        self,
        base: torch.Tensor,
        finetuned: torch.Tensor,
        density: float,
        gamma: float,
        granularity: Granularity,
        scratch: Scratch,
    ) -> None:
        self._base, self._finetuned = flattened(base), flattened(finetuned)
        self._scratch = scratch
        self._top = non_finite_key(base.dtype)
        self.work = torch.float64 if base.dtype == torch.float64 else torch.float32
        self.elements = base.numel()
        self.length = slice_length(base, granularity)
        self._counts = slice_counts(self.length, density, gamma)
        self._cuts: list[Cuts] = []
        self._largest: torch.Tensor | None = None
        if self.length > SHORT_SLICE:
            self._cuts = [self._cut(at) for at in range(0, self.elements, self.length)]

    def plan(self, at_most: int | None = None) -> Iterator[tuple[int, int]]:
        """Split all elements into chunks, each in one long slice or of short ones."""
        device = self._base.device
        if self.length <= SHORT_SLICE:
            yield from chunks(self.elements, device, self.length, at_most=at_most)
            return
        for at in range(0, self.elements, self.length):
            for start, stop in chunks(self.length, device, at_most=at_most):
                yield at + start, at + stop

    def survivors(self, start: int, stop: int) -> torch.Tensor:
        """Return a chunk of `plan` in `work`, zero where dropped, in scratch memory."""
        values = self._scratch.get("values", stop - start, self.work)
        delta = self._delta(start, stop)
        values.copy_(delta)
        if self._cuts:
            index, offset = divmod(start, self.length)
            cuts, end = self._cuts[index], offset + stop - start
            for part in survivor_ranges(cuts, offset, end):
                piece = values[part.start - offset : part.stop - offset]
                self._keep_between(piece, part.above, part.upto)
        elif self.length:
            rows = values.view(-1, self.length)
            keys = magnitude_keys(delta, overwrite=True).view(rows.shape)
            # One running maximum: a list of small tensors would fragment the heap.
            largest = keys.max()
            if self._largest is not None:
                largest = torch.maximum(largest, self._largest)
            self._largest = largest
            if self._counts.kept < self.length:
                for indices in dropped(keys, self._counts):
                    rows.scatter_(-1, indices, 0)
        return values

    def bad(self) -> int:
        """Return how many elements are not finite, after every chunk has been seen."""
        if self._cuts:
            return sum(cuts.bad for cuts in self._cuts)
        if self._largest is None or int(self._largest) < self._top:
            return 0
        return sum(int((self._keys(*c) >= self._top).sum()) for c in self.plan())

    def norm_ratio(self) -> float:
        """Return `||delta||_1 / ||survivors||_1`, or 1 where either is next to nothing.

        Summed in float64 and in blocks so short that torch never divides one among
        threads, which would make the roundings depend on their number.
        """
        before: list[float] = []
        after: list[float] = []
        for start, stop in self.plan():
            delta = self._delta(start, stop).abs()
            before += _block_sums(delta)
            after += _block_sums(self.survivors(start, stop).abs())
        norms = math.fsum(before), math.fsum(after)
        return 1.0 if min(norms) < 1e-7 else norms[0] / norms[1]

    def _delta(self, start: int, stop: int) -> torch.Tensor:
        delta = self._scratch.get("delta", stop - start, self._base.dtype)
        minuend = read(self._finetuned, start, stop)
        return torch.sub(minuend, read(self._base, start, stop), out=delta)

    def _keys(self, start: int, stop: int) -> torch.Tensor:
        return magnitude_keys(self._delta(start, stop), overwrite=True)

    def _cut(self, at: int) -> Cuts:
        def keys_of(start: int, stop: int) -> torch.Tensor:
            return self._keys(at + start, at + stop)

        return find_cuts(keys_of, self._counts, self._base)

    def _keep_between(self, piece: torch.Tensor, above: int, upto: int) -> None:
        """Zero what is not `above < key <= upto`, in place.

        `hardshrink(x, c)` is `x` where `|x| > c` and zero elsewhere; it runs at the
        speed of memory where a boolean mask does not.
        """
        if upto <= above:
            piece.zero_()
            return
        large = None
        if upto < self._top - 1:
            large = self._scratch.get("large", piece.numel(), piece.dtype)
            torch.hardshrink(piece, key_value(upto, self._base.dtype), out=large)
        if above >= 0:
            torch.hardshrink(piece, key_value(above, self._base.dtype), out=piece)
        if large is not None:
            piece.sub_(large)


def _block_sums(values: torch.Tensor) -> list[float]:
    whole = values.numel() // _NORM_BLOCK * _NORM_BLOCK
    blocks = values[:whole].view(-1, _NORM_BLOCK).sum(1, dtype=torch.float64)
    rest = values[whole:].sum(dtype=torch.float64)
    return [*blocks.tolist(), float(rest)]
