"""Where task vectors meet: what they change together, and how alike that is.

All survivors added up have a squared norm. As far as it is over the sum of the squared
norms of each, the models point the same way, and as far as it is under it, against one
another. The same is done for what is dropped as large.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from mergekit_breadcrumbs.core.keys import bits_of
from mergekit_breadcrumbs.core.summation import float_sum
from mergekit_breadcrumbs.core.workspace import Workspace
from mergekit_breadcrumbs.measure.squares import square_sum


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


class Meeting:
    """What several models do to one chunk.

    Args:
        workspace: of the tensor; another meeting on the same thread takes its memory.
        elements: how many the chunk has.
        work: the dtype in which elements are added up.
        models: how many there are at most.
    """

    def __init__(
        self, workspace: Workspace, elements: int, work: torch.dtype, models: int
    ) -> None:
        self._workspace = workspace
        self._kept, self._large, self._values = (
            workspace.memory(use, elements, work)
            for use in ("kept sum", "large sum", "values")
        )
        self._large.zero_()
        self._where_large: list[torch.Tensor] = []
        # How many models add to an element, and how many take away from it.
        count = torch.uint8 if models < 1 << 8 else torch.int32
        signs = workspace.memory("signs", 2 * elements, count).view(2, -1).zero_()
        self._plus, self._minus = map(as_array, signs)
        self._nobody = True

    def add(self, survivors: torch.Tensor, sign: float) -> None:
        """Add what survives of a model, flat and zero elsewhere, with a sign."""
        if self._nobody:
            self._kept.copy_(survivors)
            if sign < 0:
                self._kept.neg_()
            self._nobody = False
        elif survivors.dtype == self._kept.dtype:
            self._kept.add_(survivors, alpha=sign)
        else:
            self._kept.add_(self._values.copy_(survivors), alpha=sign)
        plus, minus = self._plus, self._minus
        if sign < 0:
            plus, minus = minus, plus
        if not self._workspace.on_cpu:
            plus += survivors > 0
            minus += survivors < 0
            return
        bits = as_array(bits_of(survivors))
        flags = as_array(self._workspace.memory("flags", bits.size, torch.bool))
        plus += np.greater(bits, 0, out=flags).view(np.uint8)
        unsigned, zero = bits.view(f"u{bits.itemsize}"), 1 << 8 * bits.itemsize - 1
        minus += np.greater(unsigned, zero, out=flags).view(np.uint8)  # zero is -0

    def add_large(self, delta: torch.Tensor, where: torch.Tensor, sign: float) -> None:
        """Add, with a sign, what is dropped as large of a model's flat task vector.

        Args:
            delta: the task vector; only what is at `where` is looked at.
            where: positions, int64.
            sign: 1 or -1.
        """
        self._where_large.append(where)
        values = delta.index_select(0, where).to(self._large.dtype)
        self._large.index_add_(0, where, values, alpha=sign)

    def result(self) -> Meetings:
        """Return what all models add up to; nothing can be added after it."""
        on: Any = np if self._workspace.on_cpu else torch
        large = []
        for where in self._where_large:
            large.append(self._large.index_select(0, where))
            self._large.index_fill_(0, where, 0)  # so that none counts twice
        return Meetings(
            int(on.count_nonzero(self._plus + self._minus > 1)),
            int(on.count_nonzero(on.logical_and(self._plus, self._minus))),
            0.0 if self._nobody else square_sum(self._kept, self._workspace),
            square_sum(torch.cat(large), self._workspace) if large else 0.0,
        )


def as_array(tensor: torch.Tensor) -> Any:
    """Return NumPy's view of a tensor on a CPU, where torch is slow with bools.

    Example:
        >>> as_array(torch.tensor([1, 2])) > 1
        array([False,  True])
    """
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def positions(mask: Any) -> torch.Tensor:
    """Return the flat positions, int64, of what is marked in an `as_array`.

    Example:
        >>> positions(as_array(torch.tensor([[False, True], [True, False]])))
        tensor([1, 2])
    """
    if isinstance(mask, torch.Tensor):
        return mask.view(-1).nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(mask))


def added_up(parts: Iterable[Meetings]) -> Meetings:
    """Return what the meetings of all chunks add up to.

    Example:
        >>> added_up([Meetings(1, 0, 0.5, 0.0), Meetings(2, 1, 0.25, 1.0)])
        Meetings(overlapping=3, opposed=1, kept=0.75, large=1.0)
    """
    overlapping, opposed, kept, large = zip(Meetings(0, 0, 0, 0), *parts, strict=True)
    return Meetings(sum(overlapping), sum(opposed), float_sum(kept), float_sum(large))
