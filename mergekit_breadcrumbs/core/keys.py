"""The bits of a float as an integer that orders as its magnitude does."""

from __future__ import annotations

from functools import cache, lru_cache

import torch

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


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


@cache
def non_finite_key(dtype: torch.dtype) -> int:
    """Return the key of infinity; every non-finite element's is at least that."""
    return int(magnitude_keys(torch.tensor(torch.inf, dtype=dtype)))


def magnitudes(keys: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the magnitudes, of `dtype`, that keys stand for.

    Example:
        >>> magnitudes(magnitude_keys(torch.tensor([-1.5, 2.0])), torch.float32)
        tensor([1.5000, 2.0000])
    """
    return keys.to(_INTEGER[dtype.itemsize]).view(dtype)


@lru_cache(maxsize=64)  # every chunk of a slice asks for the same two
def key_value(key: int, dtype: torch.dtype) -> float:
    """Return the magnitude that a single key stands for."""
    return float(magnitudes(torch.tensor(key), dtype))
