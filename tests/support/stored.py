"""What a breadcrumb file holds of a weight, found by sorting everything with NumPy."""

import math

import numpy as np
import torch
from torch import Tensor

from mergekit_breadcrumbs.core.positions_builder import PositionsBuilder
from mergekit_breadcrumbs.core.stored import Stored


def stored_of(
    base: Tensor,
    finetuned: Tensor,
    fraction: float = 0.2,
    granularity: str = "tensor",
    **changes,
) -> Stored:
    """Return the top of each slice of a task vector, without its zeros."""
    delta = (finetuned - base).reshape(-1)
    elements = base.numel()
    length = base.shape[-1] if granularity == "row" and base.ndim else elements
    magnitudes = delta.abs().double().numpy().reshape(-1, max(length, 1))
    most = min(math.ceil(fraction * length), length)
    chosen = np.zeros(magnitudes.shape, dtype=bool)
    for row, kept in zip(magnitudes, chosen, strict=True):
        order = np.lexsort((np.arange(length), row))
        kept[order[length - most :]] = True
    chosen &= magnitudes != 0
    if fraction == 1:
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[base.element_size()]
        chosen = (base.view(bits) != finetuned.view(bits)).numpy()
    positions = torch.from_numpy(np.flatnonzero(chosen))
    builder = PositionsBuilder(elements)
    builder.add(positions)
    given = {
        "shape": tuple(base.shape),
        "positions": builder.finish(),
        "values": finetuned.reshape(-1)[positions],
        "base_dtype": base.dtype,
        "ranked_in": base.dtype,
        "fraction": fraction,
        "granularity": granularity,
        "norm": float(magnitudes.sum()),
        "norm_scale": 1.0,
        "checksum": checksum(base, positions),
        "tensor": "a.weight",
        "file": "./file",
        "made_from": "org/base",
        "added_to": "./base",
    }
    return Stored(**given | changes)


def checksum(base: Tensor, positions: Tensor) -> str:
    """Return the sum over stored and sampled elements, with unsigned arithmetic."""
    width = 8 * base.element_size()
    bits = base.reshape(-1).view(getattr(torch, f"int{width}")).numpy()
    counted = np.concatenate([positions.numpy(), np.arange(0, base.numel(), 1024)])
    with np.errstate(over="ignore"):
        terms = bits[counted].astype(np.int64).astype(np.uint64)
        total = (terms * (2 * counted.astype(np.uint64) + np.uint64(1))).sum()
    return f"{int(total):016x}"
