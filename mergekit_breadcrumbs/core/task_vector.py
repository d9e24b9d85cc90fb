"""One task vector, formed and thinned out a chunk at a time.

A whole task vector would be as large as the model's weight itself. Here only a chunk of
it exists at any time, in memory that the next one takes over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from mergekit_breadcrumbs.core.flat import flattened, read
from mergekit_breadcrumbs.core.keys import (
    bits_of,
    key_value,
    magnitude_keys,
    non_finite_key,
)
from mergekit_breadcrumbs.core.norms import (
    NORM_SCALES,
    Numbers,
    added_up,
    magnitude_sums,
)
from mergekit_breadcrumbs.core.selection import (
    Granularity,
    SliceCounts,
    SliceCuts,
    find_cuts,
    slice_length,
    survivor_ranges,
)
from mergekit_breadcrumbs.core.short_slices import Array, drop_short
from mergekit_breadcrumbs.core.summation import work_dtype
from mergekit_breadcrumbs.core.workspace import Workspace, split


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

    def chunks(self, at_most: int, threads: int = 1) -> Iterator[tuple[int, int]]:
        """Split all elements into chunks, each in one long slice or of short ones.

        So many threads share them evenly.
        """
        if self.workspace.is_short(self.length):
            yield from split(self.elements, at_most, self.length, threads)
            return
        for at in range(0, self.elements, self.length):
            for start, stop in split(self.length, at_most, threads=threads):
                yield at + start, at + stop

    def delta(
        self, start: int, stop: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return elements of the task vector, to overwrite.

        Without `out`, the next call on the same thread overwrites them, as does one of
        `thinned` or `survivors`.
        """
        if out is None:
            out = self.workspace.memory("delta", stop - start, self.dtype)
        minuend = read(self._finetuned, start, stop)
        return torch.sub(minuend, read(self._base, start, stop), out=out)

    def thinned(
        self, start: int, stop: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return one of `chunks`, zero where dropped, to overwrite; see `delta`."""
        delta = self.delta(start, stop, out)
        if self.cuts:
            index, offset = divmod(start, self.length)
            parts = survivor_ranges(self.cuts[index], offset, offset + stop - start)
            for part in parts:
                piece = delta[part.start - offset : part.stop - offset]
                self._keep_between(piece, part.above, part.upto)
        else:
            self._drop(delta.view(-1, self.length), self.counts)
        return delta

    def survivors(
        self, start: int, stop: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return one of `chunks` in the dtype `work`, zero where dropped, to overwrite.

        Without `out`, the next call on the same thread overwrites it.
        """
        if out is None:
            out = self.workspace.memory("values", stop - start, self.work)
        if self.work == self.dtype:
            return self.thinned(start, stop, out)
        return out.copy_(self.thinned(start, stop))

    def add_to(
        self,
        total: torch.Tensor,
        start: int,
        stop: int,
        coefficient: float,
        *,
        first: bool = False,
    ) -> None:
        """Add the survivors of one of `chunks`, times a coefficient, to a sum.

        The first one to do so takes the place of whatever is there.
        """
        # Not one fused step: whether it rounds twice would depend on the place in a
        # thread's share.
        values = self.survivors(start, stop, total if first else None)
        if coefficient != 1:
            values.mul_(coefficient)
            if first:
                values.add_(0)  # as to a sum: of no element is -0 left
        if not first:
            total.add_(values)

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
            before, after = self.norm(scale), self._norm_of(self.survivors, scale)
            if math.isfinite(before):
                break
        return 1.0 if min(before, after) < 1e-7 * scale else before / after

    def norm(self, scale: float) -> float:
        """Return `||delta||_1 * scale`, infinite where that is over any float64."""
        return self._norm_of(self.delta, scale)

    def _norm_of(
        self, values: Callable[[int, int], torch.Tensor], scale: float
    ) -> float:
        def sums(chunk: tuple[int, int]) -> Numbers:
            return magnitude_sums(values(*chunk), scale)

        chunks = self.chunks(self.workspace.chunk("norm"))
        return added_up(list(self.workspace.map(sums, chunks)))

    def _keys(self, at: int, start: int, stop: int) -> torch.Tensor:
        return magnitude_keys(self.delta(at + start, at + stop), overwrite=True)

    def _keep_between(self, piece: torch.Tensor, above: int, upto: int) -> None:
        """Zero what is not `above < key <= upto`, in place."""
        if upto <= above:
            piece.zero_()
        elif piece.itemsize == 2 and self.workspace.on_cpu:
            self._mask_between(bits_of(piece).numpy(), above, upto)
        else:
            # `hardshrink(x, c)` is `x` where `|x| > c` and zero elsewhere; it runs at
            # the speed of memory where a boolean mask does not.
            large = None
            if upto < self._top - 1:
                large = self.workspace.memory("large", piece.numel(), piece.dtype)
                torch.hardshrink(piece, key_value(upto, self.dtype), out=large)
            if above >= 0:
                torch.hardshrink(piece, key_value(above, self.dtype), out=piece)
            if large is not None:
                piece.sub_(large)

    def _mask_between(self, bits: Array, above: int, upto: int) -> None:
        """Do the same to the bits of 16-bit values, in about half the time."""
        keys, survives = (
            self.workspace.memory(use, bits.size, dtype).numpy()
            for use, dtype in (("keys", torch.int16), ("survives", torch.bool))
        )
        np.bitwise_and(bits, (1 << 15) - 1, out=keys)
        keys -= above + 1  # what is too small becomes negative, and large without sign
        np.less_equal(keys.view(np.uint16), upto - above - 1, out=survives)
        bits *= survives
