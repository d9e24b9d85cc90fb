"""The bits of a float as an integer that orders as its magnitude does."""

from __future__ import annotations

import struct
from functools import cache

import torch

_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# How `struct` writes a key and reads it as a magnitude. It knows no bfloat16, which is
# the upper half of a float32.
_FORMATS = {
    torch.float16: ("<H", "<e"),
    torch.bfloat16: ("<xxH", "<f"),
    torch.float32: ("<I", "<f"),
    torch.float64: ("<Q", "<d"),
}


def magnitude_keys(values: torch.Tensor, *, overwrite: bool = False) -> torch.Tensor:
    """Return integers of the same width that order as the magnitudes of `values`.

    With `overwrite` they take the values' place in memory.

    Example:
        >>> magnitude_keys(torch.tensor([1.0, -1.0, 0.0, -2.0])).argsort().tolist()
        [2, 0, 1, 3]
    """
    integer = _INTEGER[values.element_size()]
    bits = values.view(integer)
    magnitude = torch.iinfo(integer).max
    return bits.bitwise_and_(magnitude) if overwrite else bits.bitwise_and(magnitude)


def bits_of(values: torch.Tensor) -> torch.Tensor:
    """Return the bits of the values, as integers of the same width.

    Example:
        >>> bits_of(torch.tensor([0.0, -0.0], dtype=torch.float16)).tolist()
        [0, -32768]
    """
    return values.view(_INTEGER[values.element_size()])


@cache
def non_finite_key(dtype: torch.dtype) -> int:
    """Return the key of infinity; every non-finite element's is at least that."""
    return int(magnitude_keys(torch.tensor(torch.inf, dtype=dtype, device="cpu")))


def magnitudes(keys: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the magnitudes, of `dtype`, that keys stand for.

    Example:
        >>> magnitudes(magnitude_keys(torch.tensor([-1.5, 2.0])), torch.float32)
        tensor([1.5000, 2.0000])
    """
    return keys.to(_INTEGER[dtype.itemsize]).view(dtype)


def key_value(key: int, dtype: torch.dtype) -> float:
    """Return the magnitude that a single key stands for.

    Example:
        >>> key_value(non_finite_key(torch.bfloat16), torch.bfloat16)
        inf
    """
    integer, floating = _FORMATS[dtype]
    value: float = struct.unpack(floating, struct.pack(integer, key))[0]
    return value


def value_key(value: float, dtype: torch.dtype) -> int:
    """Return a key that of no magnitude of `dtype` over `value`; at most one is lost.

    Example:
        >>> value_key(1.0, torch.float32) == int(magnitude_keys(torch.tensor(1.0)))
        True
    """
    integer, floating = _FORMATS[dtype]
    key: int = struct.unpack(integer, struct.pack(floating, value))[0]
    return key if key_value(key, dtype) <= value else key - 1
