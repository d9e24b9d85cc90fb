"""Where task vectors meet: what they change together, and how alike that is.

All survivors added up have a squared norm. As far as it is over the sum of the squared
norms of each, the models point the same way, and as far as it is under it, against one
another. The same is done for what is dropped as large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import bits_of
from mergekit_breadcrumbs.core.task_vector import TaskVector
from mergekit_breadcrumbs.core.workspace import Workspace
from mergekit_breadcrumbs.measure.tally_by_compare import TallyByCompare
from mergekit_breadcrumbs.measure.tally_by_count import TallyByCount
from mergekit_breadcrumbs.measure.tally_by_order import TallyByOrder

Tally = TallyByCount | TallyByCompare | TallyByOrder


class Meetings(NamedTuple):
    """How the task vectors of one weight meet.

    `overlapping` counts the elements to which at least two models add something other
    than zero, `opposed` those among them where not all add with the same sign. `kept`
    and `large` are squared norms: of what is kept of all models, added up with the
    signs of their weights, and of what is dropped as large.
    """

    overlapping: int
    opposed: int
    kept: float
    large: float


def find_meetings(
    vectors: Sequence[TaskVector],
    tallies: Sequence[Tally],
    weight: Sequence[float],
    workspace: Workspace,
) -> Meetings:
    """Find where several models meet, whose tallies have seen all of their vectors."""
    pulling = [each for each in zip(vectors, tallies, weight, strict=True) if each[-1]]
    if len(vectors) < 2 or not pulling:
        return Meetings(0, 0, 0.0, 0.0)

    def meet(chunk: tuple[int, int]) -> list[torch.Tensor]:
        meeting = _Meeting(vectors[0], workspace, chunk)
        for vector, tally, coefficient in pulling:
            cut = tally.upper_key(chunk) if vector.counts.large else None
            sign = math.copysign(1, coefficient)
            meeting.add(vector, vector.survivors(*chunk), cut, sign)
        return meeting.result()

    chunks = vectors[0].chunks(workspace.chunk("merge"))
    found = [[0.0] * 4]
    found += (torch.stack(numbers).tolist() for numbers in workspace.map(meet, chunks))
    overlapping, opposed, kept, large = map(math.fsum, zip(*found, strict=True))
    return Meetings(int(overlapping), int(opposed), kept, large)


class _Meeting:
    """What several models do to one chunk."""

    def __init__(
        self, vector: TaskVector, workspace: Workspace, chunk: tuple[int, int]
    ) -> None:
        self._workspace, self._chunk, self._work = workspace, chunk, vector.work
        self._balance, self._changing, self._kept, self._large = (
            self._memory(use).zero_()
            for use in ("balance", "changing", "kept sum", "large sum")
        )

    def _memory(self, use: str) -> torch.Tensor:
        start, stop = self._chunk
        return self._workspace.memory(use, stop - start, self._work)

    def add(
        self,
        vector: TaskVector,
        survivors: torch.Tensor,
        upper_key: int | torch.Tensor | None,
        sign: float,
    ) -> None:
        """Add one model, whose survivors are overwritten.

        Without a key, nothing is large.
        """
        self._kept.add_(survivors, alpha=sign)
        if upper_key is not None:
            large = self._dropped(vector, survivors, upper_key)
            self._large.add_(large, alpha=sign)
        signs = survivors.sign_()
        self._changing.addcmul_(signs, signs)
        self._balance.add_(signs, alpha=sign)

    def _dropped(
        self, vector: TaskVector, survivors: torch.Tensor, upper_key: int | torch.Tensor
    ) -> torch.Tensor:
        """Return what does not survive and is as large as a key of its slice."""
        delta = vector.delta(*self._chunk)
        memory = self._workspace.memory("below", delta.numel(), delta.dtype)
        rest, below = bits_of(delta), bits_of(memory.copy_(survivors))
        rest.bitwise_xor_(below)  # leaves zeros, of either sign, where it survives
        torch.bitwise_and(rest, torch.iinfo(rest.dtype).max, out=below)
        slices = len(upper_key) if isinstance(upper_key, torch.Tensor) else 1
        below.view(slices, -1).sub_(upper_key)
        below.bitwise_right_shift_(8 * rest.itemsize - 1)  # -1 below the key, else 0
        rest.bitwise_and_(below.bitwise_not_())
        return delta

    def result(self) -> list[torch.Tensor]:
        """Return the four numbers of `Meetings`."""
        # Where all agree, both are the same. Bools would take far longer, and float32
        # cannot count all elements of a chunk on a GPU.
        opposing = self._balance.abs_().sub_(self._changing).abs_().sign_()
        overlapping = self._changing.sub_(1).clamp_(0, 1)
        counts = [x.sum(dtype=torch.float64) for x in (overlapping, opposing)]
        norms = [
            torch.linalg.vector_norm(x, dtype=torch.float64)
            for x in (self._kept, self._large)
        ]
        return [*counts, *(norm.square() for norm in norms)]
