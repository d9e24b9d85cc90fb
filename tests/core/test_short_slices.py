"""Short slices, against sorting everything with NumPy."""

import os
import sys
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.repository import run
from support.tensors import DTYPES, noise

from mergekit_breadcrumbs.core import short_slices
from mergekit_breadcrumbs.core.keys import bits_of, magnitude_keys
from mergekit_breadcrumbs.core.short_slices import drop_small

VALUES = {
    "all different": lambda v: v,
    "heavy tails": lambda v: v.pow(5),
    "many zeros": lambda v: torch.where(v.abs() < 1, 0, v),
    "all zero": torch.zeros_like,
    "zeros of both signs": lambda v: torch.where(v.abs() < 1, v.sign() * 0, v),
    "few values": lambda v: v.round(),
    "one value": lambda v: v.sign() * 0.25,
    "denormals": lambda v: v * 1e-43,
    "infinities": lambda v: torch.where(v > 1, torch.inf, v),
    "NaN of all kinds": lambda v: torch.where(v > 1, torch.nan, v),
}


def expected(values: torch.Tensor, small: int, kept: int) -> torch.Tensor:
    """Return what is left, as float64; NaN is the largest of all."""
    bits = bits_of(values).numpy()
    keys = bits & np.iinfo(bits.dtype).max
    left = values.double().clone()
    for row, own in zip(left, keys, strict=True):
        order = np.lexsort((np.arange(len(own)), own))
        row[torch.from_numpy(np.delete(order, np.s_[small : small + kept]))] = 0
    return left


@pytest.mark.parametrize("values", VALUES)
@settings(max_examples=60)
@given(
    slices=st.integers(1, 7),
    length=st.one_of(st.integers(1, 40), st.integers(500, 3000)),
    block=st.sampled_from([1, 5000, 1 << 17]),
    dtype=st.sampled_from(DTYPES),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 9),
)
def test_what_is_left(values, slices, length, block, dtype, shares, seed):
    """Whatever is in the slices, their size and dtype, and however much is kept."""
    made = VALUES[values](noise(slices, length, seed=seed)).to(dtype)
    small = int(shares[0] * length)
    kept = int(shares[1] * (length - small))
    wanted = expected(made, small, kept)
    largest = int((bits_of(made) & torch.iinfo(bits_of(made).dtype).max).max())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_slices, "BLOCK", block)
        bits = bits_of(made)
        assert int(short_slices.drop_short(bits, small, kept)) == largest
    assert torch.equal(made.double().nan_to_num(2e9), wanted.nan_to_num(2e9))


@pytest.mark.parametrize(
    "drop",
    [drop_small, short_slices._drop_small_by_sorting],
    ids=["CPU", "as on a GPU"],
)
@pytest.mark.parametrize("values", VALUES)
@settings(max_examples=30)
@given(
    slices=st.integers(1, 7),
    length=st.one_of(st.integers(1, 40), st.integers(250, 3000)),
    block=st.sampled_from([1, 5000, 1 << 17]),
    dtype=st.sampled_from(DTYPES),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 9),
)
def test_what_is_small(drop, values, slices, length, block, dtype, shares, seed):
    """What is not small is left, the large are found, and the keys are in order."""
    made = VALUES[values](noise(slices, length, seed=seed)).to(dtype)
    small = int(shares[0] * length)
    kept = int(shares[1] * (length - small))
    keys, wanted = magnitude_keys(made), expected(made, small, length - small)
    found = torch.empty_like(keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_slices, "BLOCK", block)
        large = drop(bits_of(made), small, kept, found)
    assert torch.equal(made.double().nan_to_num(2e9), wanted.nan_to_num(2e9))
    order = np.argsort(keys.numpy(), axis=1, kind="stable")
    are_large = np.zeros(order.shape, bool)
    np.put_along_axis(are_large, order[:, small + kept :], True, 1)
    assert np.array_equal(sorted(large), np.flatnonzero(are_large))
    ordered = np.take_along_axis(keys.numpy(), order, 1)
    for start, stop in ((0, small), (small, small + kept), (small + kept, length)):
        own = ordered[:, start:stop]
        assert np.array_equal(np.sort(found[:, start:stop], 1), own)
    if small < length:
        assert np.array_equal(found[:, small], ordered[:, small])
    if kept:
        assert np.array_equal(found[:, small + kept - 1], ordered[:, small + kept - 1])


def test_the_longest():
    """A slice of as many elements as are short, and many slices of few."""
    for shape, dtype in product([(2, 1 << 17), (2, 65_535), (40_000, 3)], DTYPES):
        values = noise(*shape).to(dtype)
        wanted = expected(values, shape[1] // 3, shape[1] // 2)
        short_slices.drop_short(bits_of(values), shape[1] // 3, shape[1] // 2)
        assert torch.equal(values.double(), wanted)


DIGESTS = """
import hashlib, torch
from mergekit_breadcrumbs.core.keys import bits_of
from mergekit_breadcrumbs.core.short_slices import drop_short, drop_small
torch.manual_seed(0)
for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
    for shape in ((300, 100), (3, 70_000)):
        values = torch.randn(shape).round(decimals=1).to(dtype)
        keys = torch.empty_like(bits_of(values))
        drop_small(bits_of(values.clone()), 9, 80, keys)
        parts = keys.tensor_split((9, 89), dim=1)
        drop_short(bits_of(values), 9, 80)
        found = [values.double(), *(part.sort(1).values.double() for part in parts)]
        print(hashlib.sha256(torch.cat(found, 1).numpy().tobytes()).hexdigest())
"""


def test_without_simd():
    """Whatever NumPy can use of this processor, the result is the same."""
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    digests = [
        run(sys.executable, "-c", DIGESTS, env=os.environ | more).stdout.split()
        for more in ({}, {"NPY_DISABLE_CPU_FEATURES": " ".join(found)})
    ]
    assert len(digests[0]) == 8
    assert digests[0] == digests[1]
