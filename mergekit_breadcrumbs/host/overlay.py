"""A weight of a model made of a base and a breadcrumb file.

mergekit holds one weight of all models at a time, and thirty dense ones can be 30 GB.
Our methods merge what is stored; for everybody else this becomes an ordinary tensor at
the first touch. That goes by `__torch_function__`, which sees storage asked for, too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch

from mergekit_breadcrumbs.core.stored import Stored


class Overlay(torch.Tensor):
    """The base's weight with stored elements in place, put together when needed.

    Args:
        stored: what the file holds.
        load_base: returns the base's weight, on the CPU.
        base: id of the base model.
        dtype: that it is to have.
        device: that it is to be on.
    """

    stored: Stored
    base: Hashable
    load_base: Callable[[], torch.Tensor]
    target: torch.device
    known: torch.Tensor | None

    @staticmethod
    def __new__(
        cls: type[Overlay],
        stored: Stored,
        load_base: Callable[[], torch.Tensor],
        base: Hashable,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Overlay:
        # Has shape and dtype, and no memory.
        made = torch.empty(stored.shape, dtype=dtype, device="meta").as_subclass(cls)
        made.stored, made.base, made.known = stored, base, None
        made.load_base, made.target = load_base, _with_index(device)
        return made

    def __init__(self, *args: Any) -> None:
        super().__init__()

    def dense(self) -> torch.Tensor:
        """Return the ordinary tensor; it is kept.

        Raises:
            WrongBaseError: if the base is not the one that the file was made from.
            ValueError: if the file is damaged.
        """
        if self.known is None:
            made = self.stored.put_together(self.load_base())
            self.known = made.to(self.target, self.dtype)
        return self.known

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer what is asked of every weight, and leave the rest to the tensor."""
        kwargs = dict(kwargs or {})
        if isinstance(args[0] if args else None, cls):
            if func in _LOOKS:
                look: Callable[..., Any] = super().__torch_function__
                return look(func, types, args, kwargs)
            if func == torch.Tensor.device.__get__:
                return args[0].target
            if func == torch.Tensor.to and args[0].known is None:
                moved = _moved(*args, **kwargs)
                if moved is not None:
                    return moved
        return func(*_dense_in(tuple(args)), **_dense_in(kwargs))


# What mergekit asks of a weight that it only hands on.
_LOOKS = {
    torch.Tensor.shape.__get__,  # type: ignore[attr-defined]
    torch.Tensor.dtype.__get__,  # type: ignore[attr-defined]
    torch.Tensor.ndim.__get__,  # type: ignore[attr-defined]
    torch.Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.numel,
    torch.Tensor.element_size,
    torch.Tensor.is_floating_point,
    torch.is_floating_point,
}


def _moved(
    tensor: Overlay,
    *args: Any,
    dtype: torch.dtype | None = None,
    device: Any = None,
    non_blocking: bool = False,
    **others: Any,
) -> Overlay | None:
    """Return the same on another device, or of another dtype; None for other wishes."""
    for argument in args:
        if isinstance(argument, torch.dtype):
            dtype = argument
        elif isinstance(argument, str | torch.device):
            device = argument
        else:
            return None
    if others:
        return None
    dtype = dtype or tensor.dtype
    device = tensor.target if device is None else _with_index(torch.device(device))
    if dtype == tensor.dtype and device == tensor.target:
        return tensor
    return Overlay(tensor.stored, tensor.load_base, tensor.base, dtype, device)


def _with_index(device: torch.device) -> torch.device:
    """Return a device as a tensor that is on it names it: `cuda` as `cuda:0`."""
    return torch.empty(0, device=device).device


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that is no `Overlay`."""
    return tensor.dense() if isinstance(tensor, Overlay) else tensor


def _dense_in(given: Any) -> Any:
    if isinstance(given, Overlay):
        return given.dense()
    if isinstance(given, list | tuple):
        return type(given)(map(_dense_in, given))
    if isinstance(given, dict):
        return {name: _dense_in(value) for name, value in given.items()}
    return given
