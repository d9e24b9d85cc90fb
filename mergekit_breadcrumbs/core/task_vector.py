"""One task vector, formed and thinned out a chunk at a time.

A whole task vector would be as large as the model's weight itself. Here only a chunk of
it exists at any time, in memory that the next one takes over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from mergekit_breadcrumbs.core.keys import (
    bits_of,
    key_value,
    magnitude_keys,
    non_finite_key,
)
from mergekit_breadcrumbs.core.selection import (
    Granularity,
    SliceCounts,
    SliceCuts,
    find_cuts,
    slice_length,
    survivor_ranges,
)
from mergekit_breadcrumbs.core.short_slices import drop_short
from mergekit_breadcrumbs.core.summation import float_sum, work_dtype
from mergekit_breadcrumbs.core.workspace import Workspace, split

NORM_SCALES = (1.0, 2.0**-64)
"""By which norms are multiplied; the second where one is over any float64."""

_NORM_BLOCK = 4096

Numbers = list[float] | torch.Tensor


def flattened(tensor: torch.Tensor) -> torch.Tensor:
    """Return a flat view where there is one, for `read`, else the tensor itself."""
    if tensor.ndim == 1 or not tensor.is_contiguous():
        return tensor
    return tensor.view(-1)


def read(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Return elements of a tensor by flat position, copying little more than them."""
    if tensor.ndim == 1:
        whole = start == 0 and stop == tensor.numel()
        return tensor if whole else tensor[start:stop]
    inner = tensor.numel() // tensor.shape[0]
    first, last = start // inner, -(-stop // inner)
    offset = first * inner
    if last - first == 1:
        return read(tensor[first], start - offset, stop - offset)
    return tensor[first:last].reshape(-1)[start - offset : stop - offset]


class TaskVector:
    """`finetuned - base` of one weight, and which of its elements survive.

    `counts` are those of each slice, `cuts` are where slices are cut, unless they are
    short: the cuts of short ones are found with each chunk. The arguments are those of
    `merge_task_vectors` for one model; all models of a merge share the workspace.
    """

    def __init__(
        self,
        base: torch.Tensor,
        finetuned: torch.Tensor,
        counts: SliceCounts,
        granularity: Granularity,
        workspace: Workspace,
    ) -> None:
        self._base, self._finetuned = flattened(base), flattened(finetuned)
        self.workspace = workspace
        self._top = non_finite_key(base.dtype)
        self.dtype, self.device, self.elements = base.dtype, base.device, base.numel()
        self.work = work_dtype(base.dtype)
        self.length = slice_length(base, granularity)
        self.counts = counts
        self.cuts: list[SliceCuts] = []
        self._largest: list[int | torch.Tensor] = []
        if not workspace.is_short(self.length):
            self.cuts = self._find_cuts(range(0, self.elements, self.length))

    def _find_cuts(self, starts: range) -> list[SliceCuts]:
        keys_of = [partial(self._keys, at) for at in starts]
        return find_cuts(keys_of, self.counts, self.dtype, self.workspace)

    def chunks(self, at_most: int) -> Iterator[tuple[int, int]]:
        """Split all elements into chunks, each in one long slice or of short ones."""
        if self.workspace.is_short(self.length):
            yield from split(self.elements, at_most, self.length)
            return
        for at in range(0, self.elements, self.length):
            for start, stop in split(self.length, at_most):
                yield at + start, at + stop

    def delta(self, start: int, stop: int) -> torch.Tensor:
        """Return elements of the task vector, to overwrite.

        The next call on the same thread, or one of `survivors`, overwrites them.
        """
        delta = self.workspace.memory("delta", stop - start, self.dtype)
        minuend = read(self._finetuned, start, stop)
        return torch.sub(minuend, read(self._base, start, stop), out=delta)

    def survivors(self, start: int, stop: int) -> torch.Tensor:
        """Return one of `chunks` in the dtype `work`, zero where dropped, to overwrite.

        The next call on the same thread overwrites it.
        """
        values = self.workspace.memory("values", stop - start, self.work)
        delta = self.delta(start, stop)
        if self.cuts:
            values.copy_(delta)
            index, offset = divmod(start, self.length)
            cuts, end = self.cuts[index], offset + stop - start
            for part in survivor_ranges(cuts, offset, end):
                piece = values[part.start - offset : part.stop - offset]
                self._keep_between(piece, part.above, part.upto)
            return values
        self._drop(delta.view(-1, self.length), self.counts)
        return values.copy_(delta)

    def add_to(
        self, total: torch.Tensor, start: int, stop: int, coefficient: float
    ) -> None:
        """Add the survivors of one of `chunks`, times a coefficient, to a sum."""
        # Not one fused step: whether it rounds twice would depend on the place in a
        # thread's share.
        total.add_(self.survivors(start, stop).mul_(coefficient))

    def _drop(self, slices: torch.Tensor, counts: SliceCounts) -> None:
        """Zero what does not survive in short slices, and note the largest key."""
        self.note_largest(drop_short(bits_of(slices), counts.small, counts.kept))

    def note_largest(self, key: int | torch.Tensor) -> None:
        """Take note of the largest key in a chunk of short slices."""
        self._largest.append(key)

    def non_finite(self) -> int:
        """Return how many elements are not finite, after every chunk has been seen."""
        if self.cuts:
            return sum(cuts.non_finite for cuts in self.cuts)
        if max(map(int, self._largest), default=0) < self._top:
            return 0
        chunks = self.chunks(self.workspace.chunk("merge"))
        return sum(int((self._keys(0, *chunk) >= self._top).sum()) for chunk in chunks)

    def largest(self) -> int:
        """Return a key that no survivor's is over, after every chunk has been seen.

        It is not the least such key.
        """
        in_short = map(int, self._largest)
        return max((*in_short, *(cuts.largest for cuts in self.cuts)), default=0)

    def rescale_factor(self) -> float:
        """Return `||delta||_1 / ||survivors||_1`, or 1 where either is next to nothing.

        Summed in float64 and in blocks so short that torch never divides one among
        threads, which would make the roundings depend on their number.
        """
        for scale in NORM_SCALES:
            before, after = self.norm(scale), self._survivor_norm(scale)
            if math.isfinite(before):
                break
        return 1.0 if min(before, after) < 1e-7 * scale else before / after

    def norm(self, scale: float) -> float:
        """Return `||delta||_1 * scale`, infinite where that is over any float64."""

        def sums(chunk: tuple[int, int]) -> Numbers:
            return magnitude_sums(self.delta(*chunk), scale)

        chunks = self.chunks(self.workspace.chunk("norm"))
        return added_up(list(self.workspace.map(sums, chunks)))

    def _survivor_norm(self, scale: float) -> float:
        def sums(chunk: tuple[int, int]) -> Numbers:
            return magnitude_sums(self.survivors(*chunk), scale)

        chunks = self.chunks(self.workspace.chunk("norm"))
        return added_up(list(self.workspace.map(sums, chunks)))

    def _keys(self, at: int, start: int, stop: int) -> torch.Tensor:
        return magnitude_keys(self.delta(at + start, at + stop), overwrite=True)

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
            large = self.workspace.memory("large", piece.numel(), piece.dtype)
            torch.hardshrink(piece, key_value(upto, self.dtype), out=large)
        if above >= 0:
            torch.hardshrink(piece, key_value(above, self.dtype), out=piece)
        if large is not None:
            piece.sub_(large)


def added_up(parts: Sequence[Numbers]) -> float:
    """Return the sum of all numbers, exactly rounded."""
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    if tensors:  # waited for once
        parts = [torch.cat(tensors).tolist()]
    return float_sum(number for part in parts for number in part)


def magnitude_sums(values: torch.Tensor, scale: float) -> Numbers:
    """Return the sum of the magnitudes, times a scale, of each block of some values."""
    values = values.abs()
    if scale != 1:
        values.mul_(scale)
    whole = values.numel() // _NORM_BLOCK * _NORM_BLOCK
    blocks = values[:whole].view(-1, _NORM_BLOCK).sum(1, dtype=torch.float64)
    rest = values[whole:].sum(dtype=torch.float64)
    sums = torch.cat([blocks, rest.view(1)])
    # A GPU would have to be waited for; on a CPU, small tensors fragment the heap.
    return sums.tolist() if sums.device.type == "cpu" else sums
