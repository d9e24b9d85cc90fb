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
    """

    def __init__(self, workspace: Workspace, elements: int, work: torch.dtype) -> None:
        self._workspace = workspace
        self._kept, self._large, self._values = (
            workspace.memory(use, elements, work)
            for use in ("kept sum", "large sum", "values")
        )
        self._kept.zero_()
        self._large.zero_()
        flags = workspace.memory("flags", 7 * elements, torch.bool).view(7, -1).zero_()
        self._is_large = flags[0]
        self._where_large = [torch.zeros(0, dtype=torch.long, device=flags.device)]
        self._seen, self._several, self._plus, self._minus, *self._own = (
            as_array(flag) for flag in flags[1:]
        )
        self._on: Any = np if workspace.on_cpu else torch

    def add(self, survivors: torch.Tensor, sign: float) -> None:
        """Add what survives of a model, flat and zero elsewhere, with a sign."""
        if survivors.dtype == self._kept.dtype:
            self._kept.add_(survivors, alpha=sign)
        else:
            self._kept.add_(self._values.copy_(survivors), alpha=sign)
        self._signs(survivors, *self._own)
        plus, minus = self._own if sign > 0 else self._own[::-1]
        self._plus |= plus
        self._minus |= minus
        plus |= minus
        self._on.logical_and(self._seen, plus, out=minus)
        self._several |= minus
        self._seen |= plus

    def _signs(self, values: torch.Tensor, over: Any, under: Any) -> None:
        """Mark what is over zero and what is under it."""
        if self._on is torch:
            torch.gt(values, 0, out=over)
            torch.lt(values, 0, out=under)
            return
        bits = as_array(bits_of(values))
        least = 1 << 8 * bits.itemsize - 1  # the bits of -0
        np.greater(bits, 0, out=over)
        np.greater(bits.view(f"u{bits.itemsize}"), least, out=under)

    def add_large(self, delta: torch.Tensor, where: torch.Tensor, sign: float) -> None:
        """Add, with a sign, what is dropped as large of a model's flat task vector.

        Args:
            delta: the task vector; only what is at `where` is looked at.
            where: positions, int64.
            sign: 1 or -1.
        """
        new = where[~self._is_large.index_select(0, where)]
        self._is_large.index_fill_(0, new, True)
        self._where_large.append(new)
        values = delta.index_select(0, where).to(self._large.dtype)
        self._large.index_add_(0, where, values, alpha=sign)

    def result(self) -> Meetings:
        """Return what all models add up to."""
        self._plus &= self._minus
        where = torch.cat(self._where_large)
        return Meetings(
            int(self._on.count_nonzero(self._several)),
            int(self._on.count_nonzero(self._plus)),
            square_sum(self._kept, self._workspace),
            square_sum(self._large.index_select(0, where), self._workspace),
        )


def square_sum(values: torch.Tensor, workspace: Workspace) -> float:
    """Return the sum of the squares of some values, in float64.

    Example:
        >>> square_sum(torch.tensor([3.0, 4.0]), Workspace(torch.device("cpu"), 2))
        25.0
    """
    memory = workspace.memory("squares", values.numel(), torch.float64)
    memory.view(values.shape).copy_(values)
    return float(memory.dot(memory))


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
