"""Merging from what is stored of a weight: the bits of the merge from all of it."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stored import stored_of
from support.tensors import DTYPES

from mergekit_breadcrumbs import merge_task_vectors
from mergekit_breadcrumbs.core.stored import WrongBaseError

OPTIONS = {
    "normalize, lambda": {"normalize": True, "lambda_": 0.3},
    "ties": {"elect_sign": True, "normalize": True},
}
SHAPES = {
    "long slice": (210, 200),
    "long rows": (2, 40000),
    "short rows": (70, 600),
    "several blocks": (200_000,),
    "short": (5, 7),
    "one element": (1,),
    "no dimension": (),
    "empty": (0, 4),
}
FRACTIONS = {
    "as much as there is": [(0.19, 0.01), (0.1, 0.1), (0.2, 0)],
    "less": [(0.05, 0.01), (0.1, 0.0), (1e-6, 0.05)],
    "nothing kept": [(0.0, 0.2), (0.1, 0.02), (0.15, 0.0)],
}


def weights(shape, dtype, seed=0):
    """Return a base and fine-tunings with ties, zeros and, in one, untouched rows."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator).to(dtype)
    finetuned = []
    for index in range(3):
        delta = torch.randn(shape, generator=generator).pow(3) / 64
        delta[torch.rand(shape, generator=generator) < 0.5] = 0
        if index == 2:
            delta[torch.rand(shape[:1], generator=generator) < 0.7] = 0
        finetuned.append((base.double() + delta).to(dtype))
    return base, finetuned


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_same_bits(shape, dtype, granularity, threads, monkeypatch):
    """All options and fractions, from files alone and beside full weights."""
    base, finetuned = weights(shape, dtype)
    stored = [stored_of(base, each, 0.2, granularity) for each in finetuned]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for fractions in FRACTIONS.values():
            density, gamma = zip(*fractions, strict=True)
            for name, options in OPTIONS.items():
                rest = {"granularity": granularity, **options}
                rest |= {"weight": [0.5, 0.4, -0.3], "density": density, "gamma": gamma}
                expected = merge_task_vectors(base, finetuned, **rest)
                mixed = [stored[0], finetuned[1], stored[2]]
                for given_weights in (stored, mixed):
                    merged = merge_task_vectors(base, given_weights, **rest)
                    assert torch.equal(merged, expected), (fractions, name)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("elect_sign", [False, True])
@pytest.mark.parametrize("shape", [(210, 200), (70, 600), (2, 40000)], ids=str)
def test_rescale(shape, elect_sign, granularity):
    """Factors come from the norm that is stored and the survivors that are."""
    base = torch.zeros(shape)
    steps = torch.arange(base.numel()).view(shape) * 7919 % 1009
    finetuned = [
        torch.where(steps % 3 == 0, steps * sign / 64.0, 0.0) for sign in (1, -1)
    ]
    rest = {"weight": [0.5, 0.4], "density": [0.1, 0.15], "gamma": [0.01, 0.05]}
    rest |= {"rescale": True, "granularity": granularity, "elect_sign": elect_sign}
    stored = [stored_of(base, each, 0.2, granularity) for each in finetuned]
    expected = merge_task_vectors(base, finetuned, **rest)
    assert torch.equal(merge_task_vectors(base, stored, **rest), expected)
    # A test that the norm is used: with another one, the result is another.
    wrong = [dataclasses.replace(each, norm=2 * each.norm) for each in stored]
    assert not torch.equal(merge_task_vectors(base, wrong, **rest), expected)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    shape=st.lists(st.integers(1, 40), min_size=0, max_size=3),
    dtype=st.sampled_from(DTYPES),
    fraction=st.floats(0.001, 1),
    granularity=st.sampled_from(["tensor", "row"]),
    elect_sign=st.booleans(),
)
def test_whatever_fits(data, shape, dtype, fraction, granularity, elect_sign):
    """Density and gamma of any sizes whose sum is at most the fraction."""
    base, finetuned = weights(tuple(shape) or (1,), dtype, data.draw(st.integers(0, 9)))
    base, finetuned = base.view(shape), [each.view(shape) for each in finetuned]
    stored = [stored_of(base, each, fraction, granularity) for each in finetuned]
    gamma = [fraction * data.draw(st.floats(0, 1)) for _ in stored]
    density = [(fraction - each) * data.draw(st.floats(0, 1)) for each in gamma]
    rest = {"weight": [1.0, 0.5, -1.0], "density": density, "gamma": gamma}
    rest |= {"granularity": granularity, "elect_sign": elect_sign}
    expected = merge_task_vectors(base, finetuned, **rest)
    assert torch.equal(merge_task_vectors(base, stored, **rest), expected)


@pytest.mark.parametrize("fraction", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_more_than_there_is(dtype, fraction):
    """The largest are dropped first; all that is left of what is stored is kept."""
    base, (finetuned, *_) = weights((210, 200), dtype)
    stored = stored_of(base, finetuned, fraction)
    known = stored.put_together(base)
    rest = {"weight": [1.0], "density": [0.9], "gamma": [0.01]}
    expected = merge_task_vectors(base, [known], **rest)
    assert torch.equal(merge_task_vectors(base, [stored], **rest), expected)


@pytest.mark.parametrize("shape", [(210, 200), (5, 7), (3, 40000)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lossless(dtype, shape):
    """Everything whose bits differ gives back the weight to the bit, -0.0 and all."""
    base, (finetuned, *_) = weights(shape, dtype)
    base.view(-1)[:2] = torch.tensor([0.0, -0.0])
    finetuned.view(-1)[:2] = torch.tensor([-0.0, 0.0])
    together = stored_of(base, finetuned, 1.0).put_together(base)
    assert together.dtype == dtype
    assert torch.equal(together.view(torch.uint8), finetuned.view(torch.uint8))


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("where", ["stored", "sampled"])
@pytest.mark.parametrize("shape", [(210, 200), (70, 600), (2, 40000), (5, 7)], ids=str)
def test_wrong_base(shape, where, granularity):
    """One element of the base that is another one is an error that names both."""
    base, (finetuned, *_) = weights(shape, torch.bfloat16)
    stored = stored_of(base, finetuned, 0.2, granularity)
    at = 0 if where == "sampled" else int(stored.positions.ranked(1, 2))
    other = base.clone()
    other.view(-1)[at] += 1
    rest = {"weight": [1.0], "density": [0.1], "gamma": [0.01]}
    message = r"\./file was made from another base: org/base, not \./base \(tensor a"
    for merge in (
        lambda: merge_task_vectors(other, [stored], granularity=granularity, **rest),
        lambda: stored.put_together(other),
    ):
        with pytest.raises(WrongBaseError, match=message):
            merge()


def test_the_same_base_with_other_values():
    """Then the base is not another one: it has changed, or the file is damaged."""
    base, (finetuned, *_) = weights((210, 200), torch.float32)
    stored = dataclasses.replace(
        stored_of(base, finetuned), made_from="base", added_to="./base"
    )
    message = r"\./file is damaged, or base has changed since it was made \(tensor a"
    with pytest.raises(WrongBaseError, match=message):
        stored.put_together(base + 1)


def test_wrong_shape():
    """A base of another shape is another base."""
    base, (finetuned, *_) = weights((210, 200), torch.float32)
    stored = stored_of(base, finetuned)
    with pytest.raises(WrongBaseError, match=r"is of shape \(200, 210\) there, not"):
        stored.put_together(base.T)


def test_not_finite():
    """A stored value that is not finite is an error, as in a full weight."""
    base, (finetuned, *_) = weights((210, 200), torch.float32)
    for shape, granularity in (((210, 200), "tensor"), ((210, 200), "row")):
        stored = stored_of(base, finetuned, 0.2, granularity)
        stored.values[7] = torch.inf
        with pytest.raises(ValueError, match="1 of 42000 elements are not"):
            merge_task_vectors(
                base.view(shape),
                [stored],
                weight=[1.0],
                density=[0.1],
                gamma=[0.0],
                granularity=granularity,
            )


def test_gradients():
    """Where they are recorded, they flow to the base as from a full weight."""
    base, (finetuned, *_) = weights((210, 200), torch.float32)
    gradients = []
    for each in (finetuned, stored_of(base, finetuned, 1.0)):
        own = base.clone().requires_grad_()
        merge_task_vectors(
            own, [each], weight=[0.5], density=[0.5], gamma=[0.01]
        ).sum().backward()
        gradients.append(own.grad)
    assert torch.equal(*gradients)
