"""Elements of a tensor by flat position."""

from __future__ import annotations

import torch


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
