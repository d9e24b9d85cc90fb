"""Sums of squares."""

from __future__ import annotations

import numpy as np
import torch

from mergekit_breadcrumbs.core.workspace import Workspace


def square_sum(values: torch.Tensor, workspace: Workspace) -> float:
    """Return the sum of the squares of some values, taken in float64.

    Example:
        >>> square_sum(torch.tensor([3.0, 4.0]), Workspace(torch.device("cpu"), 2))
        25.0
    """
    if workspace.on_cpu and values.itemsize > 2:
        array = values.numpy()
        axes = list(range(array.ndim))
        return float(np.einsum(array, axes, array, axes, [], dtype=np.float64))
    memory = workspace.memory("squares", values.numel(), torch.float64)
    memory.view(values.shape).copy_(values)
    return float(memory.dot(memory))
