"""What is chosen of a weight, against an oracle that sorts everything."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.stored import stored_of
from support.tensors import DTYPES

from mergekit_breadcrumbs.core.keys import bits_of
from mergekit_breadcrumbs.extract.select import select

SHAPES = [(), (1,), (0, 3), (5, 7), (2000,), (40, 1100), (2, 40000)]


def weights(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator).to(dtype)
    delta = (torch.randn(shape, generator=generator) * 8).round() / 8
    delta[torch.rand(shape, generator=generator) < 0.3] = 0
    return base, (base.double() + delta / 16).to(dtype)


def assert_chosen(chosen, expected):
    ranks = chosen.positions.ranked(0, chosen.positions.stored)
    oracle = expected.positions.ranked(0, expected.positions.stored)
    assert torch.equal(ranks, oracle)
    assert chosen.values.dtype == expected.values.dtype
    assert torch.equal(bits_of(chosen.values), bits_of(expected.values))
    assert chosen.checksum == expected.checksum
    assert chosen.norm == pytest.approx(expected.norm, rel=1e-12)


@given(
    shape=st.one_of(
        st.sampled_from(SHAPES), st.lists(st.integers(0, 9), max_size=4).map(tuple)
    ),
    dtype=st.sampled_from(DTYPES),
    fraction=st.floats(0, 1, exclude_min=True),
    granularity=st.sampled_from(["tensor", "row"]),
    seed=st.integers(0, 5),
)
def test_against_sorting(shape, dtype, fraction, granularity, seed):
    """Positions, values, checksum and norm; any shape, fraction and granularity."""
    base, finetuned = weights(shape, dtype, seed)
    chosen = select(base, finetuned, fraction=fraction, granularity=granularity)
    assert_chosen(chosen, stored_of(base, finetuned, fraction, granularity))
    assert chosen.changed == int((base != finetuned).sum())
    square = float((finetuned - base).double().pow(2).sum())
    assert chosen.square == pytest.approx(square, rel=1e-6)
    assert chosen.stored_square <= chosen.square * (1 + 1e-9)


@pytest.mark.parametrize(
    ("base", "finetuned", "wanted", "ranked", "stored"),
    [
        ("bfloat16", "bfloat16", None, "bfloat16", "bfloat16"),
        ("float32", "bfloat16", None, "float32", "bfloat16"),
        ("bfloat16", "float32", None, "float32", "float32"),
        ("float16", "bfloat16", None, "float32", "bfloat16"),
        ("float32", "float32", "bfloat16", "bfloat16", "bfloat16"),
        ("bfloat16", "bfloat16", "float32", "float32", "bfloat16"),
        ("float16", "float16", "bfloat16", "bfloat16", "bfloat16"),
    ],
)
@pytest.mark.parametrize("fraction", [0.3, 1])
def test_dtypes(base, finetuned, wanted, ranked, stored, fraction):
    """Ranked as the merge ranks, stored in the narrower dtype, and nothing is lost."""
    base, finetuned, ranked, stored = (
        getattr(torch, name) for name in (base, finetuned, ranked, stored)
    )
    own, _ = weights((30, 50), base, 1)
    _, other = weights((30, 50), finetuned, 1)
    wanted = wanted and getattr(torch, wanted)
    chosen = select(own, other, fraction=fraction, dtype=wanted)
    assert (chosen.ranked_in, chosen.values.dtype) == (ranked, stored)
    expected = stored_of(own.to(ranked), other.to(ranked), fraction)
    positions = expected.positions.ranked(0, expected.positions.stored)
    assert torch.equal(chosen.positions.ranked(0, len(positions)), positions)
    assert torch.equal(chosen.values.to(ranked), expected.values)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers(dtype):
    """All that differ are stored, whatever the fraction."""
    base = torch.arange(3000).remainder(2).to(dtype)
    finetuned = base.clone()
    finetuned[[5, 2000]] = (base[[5, 2000]] == 0).to(dtype)
    finetuned[7] = 1
    chosen = select(base, finetuned, fraction=0.001)
    assert (chosen.ranked_in, chosen.norm) == (None, None)
    differ = (base != finetuned).nonzero().view(-1)
    assert torch.equal(chosen.positions.ranked(0, chosen.positions.stored), differ)
    assert torch.equal(chosen.values, finetuned[differ])


def test_not_finite():
    """An error, with the model and the tensor; where all is stored, it is as it is."""
    base, finetuned = torch.zeros(50000), torch.zeros(50000)
    finetuned[[7, 9]] = torch.tensor([torch.inf, 1.0])
    with pytest.raises(ValueError, match=r"1 of 50000 .*\(model \./a, tensor w\)"):
        select(base, finetuned, fraction=0.1, names=("./a", "w"))
    chosen = select(base, finetuned, fraction=1)
    assert chosen.values.tolist() == [torch.inf, 1.0]
    assert chosen.norm is None


def test_norm_over_any_float64():
    """Where the sum overflows, it is stored scaled."""
    base = torch.zeros(10, dtype=torch.float64)
    chosen = select(base, base + 1e308, fraction=0.5)
    assert chosen.norm_scale == 2.0**-64
    assert chosen.norm == pytest.approx(10 * (1e308 * 2.0**-64))
