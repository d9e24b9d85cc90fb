"""Random tensors, and what property tests draw from."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import strategies as st

from mergekit_breadcrumbs.core import short_slices, workspace

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

FRACTION = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))
"""A density or a gamma."""


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return float32 values from a normal distribution, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def thresholds(*, chunk: int, short: int) -> Iterator[None]:
    """Take chunks of so many elements, with short slices of up to so many."""
    with pytest.MonkeyPatch.context() as patch:
        for purpose in workspace.CHUNK:
            patch.setitem(workspace.CHUNK, purpose, chunk)
        for device in workspace.SHORT_SLICE:
            patch.setitem(workspace.SHORT_SLICE, device, short)
        patch.setattr(short_slices, "BLOCK", short)
        yield
