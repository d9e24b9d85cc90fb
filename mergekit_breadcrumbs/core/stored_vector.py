"""A task vector of which only the largest elements are there, merged by those alone.

What is not stored did not change, or changed less than everything stored, and so ranks
lowest in its slice. Time and memory go by what is stored, not by the whole weight.
"""

from __future__ import annotations

import math

import torch

from mergekit_breadcrumbs.core.keys import magnitude_keys
from mergekit_breadcrumbs.core.ranks import Ranked
from mergekit_breadcrumbs.core.selection import (
    Granularity,
    SliceCounts,
    SliceCuts,
    find_cuts,
    survivor_ranges,
)
from mergekit_breadcrumbs.core.stored import Stored, checksum_part, sampled_part
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.core.workspace import Workspace, split

_NONE = Ranked(0, 0)


class StoredVector(TaskVector):
    """The task vector of a weight in a breadcrumb file.

    Args:
        base: the base's weight, in the dtype in which the file's elements were ranked.
        stored: what the file holds of the fine-tuned one.
        counts: of each slice of the whole weight.
        granularity: what a slice is; the file's own.
        workspace: of the merge.

    Raises:
        WrongBaseError: if the base's weight has another shape.
        ValueError: if the file is damaged.
    """

    def __init__(
        self,
        base: torch.Tensor,
        stored: Stored,
        counts: SliceCounts,
        granularity: Granularity,
        workspace: Workspace,
    ) -> None:
        stored.require_shape(base)
        self._stored, self._flat = stored, base.reshape(-1)
        self._checksums: list[int] | None = None
        super().__init__(base, base, counts, granularity, workspace)

    def delta(
        self, start: int, stop: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return elements of the task vector, zero where not stored; see TaskVector."""
        if out is None:
            out = self.workspace.memory("delta", stop - start, self.dtype)
        rank, local = self._stored.between(start, stop)
        local = local.to(self.device)
        changes = self._changes(rank, self._flat[start:stop].index_select(0, local))
        return out.zero_().index_copy_(0, local, changes)

    def survivors(
        self, start: int, stop: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return one of `chunks`, zero where dropped; see TaskVector."""
        if out is None:
            out = self.workspace.memory("values", stop - start, self.work)
        return out.zero_().index_copy_(0, *self._kept(start, stop))

    def add_to(
        self,
        total: torch.Tensor,
        start: int,
        stop: int,
        coefficient: float,
        *,
        first: bool = False,
    ) -> None:
        """Add the survivors of one of `chunks` to a sum; see TaskVector."""
        if first:
            total.zero_()
        local, kept = self._kept(start, stop)
        total.index_add_(0, local, kept.mul_(coefficient))

    def watch_base(self) -> None:
        """From now on, look at the base with each chunk, which is to come up once."""
        self._checksums = []

    def require_base(self) -> None:
        """Raise WrongBaseError if the base is another, after every chunk came up."""
        self._stored.require_checksum(sum(self._checksums or ()))

    def _changes(self, rank: int, base: torch.Tensor) -> torch.Tensor:
        """Return the task vector's elements from a rank on, beside the base's."""
        values = self._stored.values[rank : rank + len(base)]
        return torch.sub(values.to(self.device, self.dtype), base)

    def _find_cuts(self, starts: range) -> list[SliceCuts]:
        ranks = map(self._stored.positions.rank, starts)
        bounds = [*ranks, self._stored.positions.stored]
        slices = zip(starts, bounds, bounds[1:], strict=False)
        return [self._cut(*one) for one in slices]

    def _cut(self, start: int, first: int, last: int) -> SliceCuts:
        """Find the cuts of the slice from `start`, of which these ranks are stored."""
        if first == last:
            return SliceCuts(_NONE, _NONE, 0, 0)

        def keys(a: int, b: int) -> torch.Tensor:
            delta = self.workspace.memory("delta", b - a, self.dtype)
            for x, y in split(b - a, self.workspace.chunk("norm")):
                rank = first + a + x
                positions = self._stored.ranked(rank, rank + y - x).to(self.device)
                base = self._flat.index_select(0, positions)
                delta[x:y] = self._changes(rank, base)
            return magnitude_keys(delta, overwrite=True)

        keys_of = keys
        if last - first <= self.workspace.chunk("count"):
            once = keys(0, last - first).clone()

            def keys_of(a: int, b: int) -> torch.Tensor:
                return once[a:b].clone()

        counts = self._within(last - first)
        (cuts,) = find_cuts([keys_of], counts, self.dtype, self.workspace)

        def in_weight(cut: Ranked, rank: int) -> Ranked:
            if rank in (0, last - first):  # no element is cut at
                return cut
            (position,) = self._stored.ranked(
                first + cut.position, first + cut.position + 1
            ).tolist()
            return Ranked(cut.key, position - start)

        lower = in_weight(cuts.lower, counts.small)
        upper = in_weight(cuts.upper, counts.small + counts.kept)
        return cuts._replace(lower=lower, upper=upper)

    def _within(self, stored: int) -> SliceCounts:
        """Return the counts among those stored of a slice, where `large` come first."""
        large = min(self.counts.large, stored)
        kept = min(self.counts.kept, stored - large)
        return SliceCounts(stored - kept - large, kept, large)

    def _kept(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where in one of `chunks` something is stored, and what survives of it.

        Returns:
            int64 [stored], counted from `start`, and the survivors in the dtype `work`,
            zero where dropped.
        """
        rank, local = self._stored.between(start, stop)
        local, part = local.to(self.device), self._flat[start:stop]
        base = part.index_select(0, local)
        if self._checksums is not None:
            stored = checksum_part(base, local, start)
            self._checksums.append(stored + sampled_part(part, start))
        delta = self._changes(rank, base)
        if self.cuts:
            kept = delta.to(self.work, copy=True)
            index, offset = divmod(start, self.length)
            parts = survivor_ranges(self.cuts[index], offset, offset + stop - start)
            for piece in parts:
                bounds = torch.tensor([piece.start - offset, piece.stop - offset])
                a, b = torch.searchsorted(local, bounds.to(local.device)).tolist()
                self._keep_between(kept[a:b], piece.above, piece.upto)
            return local, kept
        if len(delta):
            self._keep_in_rows(delta, local, (stop - start) // self.length)
        return local, delta.to(self.work)

    def _keep_in_rows(
        self, delta: torch.Tensor, local: torch.Tensor, rows: int
    ) -> None:
        """Zero what does not survive in short slices, in place.

        What is stored of each is set at the end of a row of a smaller matrix, after
        zeros, which rank lower.
        """
        row = local.div(self.length, rounding_mode="floor")
        per_row = torch.bincount(row, minlength=rows)
        width = int(per_row.max())
        if width * rows == len(delta):
            self._drop(delta.view(rows, width), self._within(width))
            return
        ends = per_row.cumsum(0)
        place = torch.arange(len(delta), device=self.device)
        place.sub_(ends.index_select(0, row)).add_(row.add_(1).mul_(width))
        padded = delta.new_zeros(rows * width).index_copy_(0, place, delta)
        self._drop(padded.view(rows, width), self._within(width))
        torch.index_select(padded, 0, place, out=delta)

    def norm(self, scale: float) -> float:
        """Return `||delta||_1 * scale` of the whole task vector, as it is stored."""
        return self._stored.norm if scale <= self._stored.norm_scale else math.inf
