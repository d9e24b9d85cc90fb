"""How survivors combine: the oracle over a table of shapes, dtypes and parameters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.tensors import DTYPES, FRACTION, noise, thresholds

from mergekit_breadcrumbs.core.keys import bits_of
from mergekit_breadcrumbs.core.merge import merge_task_vectors
from mergekit_breadcrumbs.core.selection import survivor_mask


def _models(base, count, *, zeros=0.0, step=0.05):
    """Fine-tunings of `base` with heavy-tailed task vectors, in its dtype."""
    tuned = []
    for index in range(count):
        delta = noise(*base.shape, seed=2 * index + 1) ** 3 * step
        keep = torch.rand(base.shape, generator=torch.Generator().manual_seed(index))
        tuned.append((base.double() + delta * (keep >= zeros)).to(base.dtype))
    return tuned


def _check(base, tuned, *, elect_sign=False, **options):
    count = len(tuned)
    per_model = {"weight": 1.0, "density": 0.9, "gamma": 0.01}
    for name, default in per_model.items():
        value = options.pop(name, default)
        options[name] = value if isinstance(value, list) else [value] * count
    before = [tensor.clone() for tensor in (base, *tuned)]
    actual = merge_task_vectors(base, tuned, elect_sign=elect_sign, **options)
    oracle.assert_merged(actual, base, tuned, ties=elect_sign, **options)
    for tensor, copy in zip((base, *tuned), before, strict=True):
        assert torch.equal(tensor, copy)
    return actual


BASES = {
    "0-d": torch.tensor(0.75),
    "one element": torch.tensor([0.75]),
    "1-d under 100": noise(64, seed=9),
    "2-d": noise(37, 61, seed=9),
    "4-d": noise(3, 4, 5, 6, seed=9),
    "empty": torch.zeros(0, 5),
    "strided": noise(60, 80, seed=9)[::2, ::3],
    "transposed": noise(40, 30, seed=9).T,
}
OPTIONS = {
    "defaults": {},
    "authors": {"density": 0.15, "gamma": 0.006, "lambda_": 0.4},
    "lambda negative": {"lambda_": -1.5},
    "lambda 0": {"lambda_": 0.0},
    "normalize": {"normalize": True},
    "rescale": {"density": 0.3, "rescale": True},
    "rescale, normalize, lambda": {
        "density": 0.5,
        "rescale": True,
        "normalize": True,
        "lambda_": 0.7,
    },
    "gamma 0": {"density": 0.5, "gamma": 0.0},
    "gamma 1": {"density": 0.5, "gamma": 1.0},
    "density 0": {"density": 0.0, "rescale": True, "normalize": True},
    "density 1": {"density": 1.0},
    "tiny": {"density": 1e-6, "gamma": 1e-6},
    "infeasible": {"density": 0.8, "gamma": 0.6},
}


@pytest.mark.parametrize("elect_sign", [False, True], ids=["plain", "ties"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BASES)
def test_merged_is_the_oracles(name, dtype, elect_sign):
    """Every shape, dtype, layout and parameter gives METHOD's merged weight."""
    base = BASES[name].to(dtype)
    tuned = _models(base, 3)
    for options in OPTIONS.values():
        for granularity in ("tensor", "row"):
            _check(
                base, tuned, elect_sign=elect_sign, granularity=granularity, **options
            )


@pytest.mark.parametrize("elect_sign", [False, True], ids=["plain", "ties"])
@pytest.mark.parametrize("count", range(1, 9))
def test_one_to_eight_models_with_values_of_their_own(count, elect_sign):
    """Weights, densities and gammas go with their model, negative weights included."""
    base = noise(40, 50).bfloat16()
    tuned = _models(base, count, zeros=0.2)
    weight = [0.9, -0.4, 0.3, 0.25, -0.1, 0.7, 0.05, 1.3][:count]
    density = [0.9, 0.15, 0.5, 1.0, 0.0, 0.7, 0.3, 0.6][:count]
    gamma = [0.01, 0.006, 0.0, 0.5, 0.1, 1.0, 0.02, 0.3][:count]
    for normalize in (False, True):
        _check(
            base,
            tuned,
            weight=weight,
            density=density,
            gamma=gamma,
            normalize=normalize,
            elect_sign=elect_sign,
        )


def test_no_model_leaves_the_base():
    """Nothing to add is nothing changed."""
    base = noise(5)
    merged = merge_task_vectors(base, [], weight=[], density=[], gamma=[])
    assert torch.equal(merged, base)


@pytest.mark.parametrize("elect_sign", [False, True], ids=["plain", "ties"])
def test_weights_that_cancel_are_not_divided_by(elect_sign):
    """A sum of weights of zero leaves the merge unnormalised, as in mergekit."""
    base = noise(300)
    tuned = _models(base, 2)
    _check(base, tuned, weight=[0.5, -0.5], normalize=True, elect_sign=elect_sign)


@pytest.mark.parametrize("kind", ["all equal", "mostly zero", "zero", "next to zero"])
def test_rescale_of_odd_task_vectors(kind):
    """A norm too small to divide by leaves the survivors alone."""
    base = torch.zeros(20, 30)
    delta = {
        "all equal": torch.full((20, 30), 0.125),
        "mostly zero": noise(20, 30) * (noise(20, 30, seed=1) > 1.5),
        "zero": torch.zeros(20, 30),
        "next to zero": noise(20, 30) * 1e-11,
    }[kind]
    for density in (0.1, 0.9):
        _check(base, [delta, noise(20, 30, seed=5)], density=density, rescale=True)


def test_sums_are_not_rounded_to_the_checkpoints_dtype():
    """Contributions too small for bfloat16 one by one still add up."""
    base = torch.ones(1, dtype=torch.bfloat16)
    tuned = [torch.full((1,), 1.0078125, dtype=torch.bfloat16)] * 8
    merged = _check(base, tuned, weight=0.125)
    assert merged.item() == 1.0078125


@pytest.mark.parametrize("elect_sign", [False, True], ids=["plain", "ties"])
@pytest.mark.parametrize("rescale", [False, True])
def test_gradients_are_those_of_the_formula(elect_sign, rescale):
    """Gradients reach every input, with the choice of survivors held constant."""
    inputs = [noise(6, 7, seed=seed).double().requires_grad_() for seed in range(1, 4)]

    def merged(base, *tuned):
        return merge_task_vectors(
            base,
            tuned,
            weight=[0.7, -0.2],
            density=[0.5, 0.6],
            gamma=[0.05, 0.1],
            lambda_=0.8,
            normalize=True,
            rescale=rescale,
            elect_sign=elect_sign,
        )

    assert torch.autograd.gradcheck(merged, inputs)
    with torch.no_grad():
        unrecorded = merged(*inputs)
    assert torch.equal(merged(*inputs).detach(), unrecorded)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("elect_sign", [False, True], ids=["plain", "ties"])
def test_recording_gradients_does_not_change_a_bit(dtype, elect_sign):
    """The recorded and the unrecorded way give the same merged weight."""
    base = noise(50, 60).to(dtype)
    tuned = _models(base, 3)
    for options in OPTIONS.values():
        plain = _check(base, tuned, elect_sign=elect_sign, **options)
        count = {"weight": 1.0, "density": 0.9, "gamma": 0.01} | options
        for name in ("weight", "density", "gamma"):
            count[name] = [count[name]] * 3
        recorded = merge_task_vectors(
            base.clone().requires_grad_(), tuned, elect_sign=elect_sign, **count
        )
        assert recorded.requires_grad
        assert torch.equal(recorded.detach(), plain)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    ("names", "text"),
    [
        (None, r"2 of 600 elements are not \(task vector 1\)"),
        (["model a", "model b"], r"2 of 600 elements are not \(model b\)"),
    ],
)
def test_non_finite_task_vectors_are_named(names, text, recorded):
    """The error says which model, and how many elements."""
    base = torch.zeros(20, 30)
    bad = torch.zeros(20, 30)
    bad[3, 4], bad[19, 29] = float("nan"), -float("inf")
    with pytest.raises(ValueError, match=text):
        merge_task_vectors(
            base.requires_grad_(recorded),
            [torch.ones(20, 30), bad],
            weight=[1, 1],
            density=[0.9, 0.9],
            gamma=[0.01, 0.01],
            names=names,
        )


def _with_negative_zeros(dtype, scale=1.0):
    base = noise(90, 110, seed=9).mul_(scale)
    base[::2, ::2] = -0.0
    return base.to(dtype)


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0)], ids=str)
@pytest.mark.parametrize("scale", [1, 1e-40], ids=["", "denormals"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_model(dtype, scale, factors, granularity):
    """Added as it is, too, where no wider dtype is needed: every bit is as with one."""
    base, (weight, lambda_) = _with_negative_zeros(dtype, scale), factors
    tuned = (base.double() + noise(90, 110).double() * scale * 0.1).to(dtype)
    options = {"density": 0.7, "gamma": 0.02, "granularity": granularity}
    delta, work = tuned - base, torch.promote_types(dtype, torch.float32)
    kept = torch.where(survivor_mask(delta, **options), delta, 0).to(work)
    expected = base.to(work).add(kept.mul(weight).mul(lambda_)).to(dtype)
    options = options | {"density": [0.7], "gamma": [0.02], "lambda_": lambda_}
    with thresholds(chunk=1000, short=500):
        merged = merge_task_vectors(base, [tuned], weight=[weight], **options)
    assert torch.equal(bits_of(merged), bits_of(expected))


@pytest.mark.parametrize("weight", [[-0.7], [-0.7, -0.3, -0.9]], ids=["one", "three"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_tensors_have_the_bits_of_large_ones(dtype, weight):
    """Merged all models at once or chunk by chunk; no zero keeps a sign."""
    base, count = _with_negative_zeros(dtype), len(weight)
    tuned = _models(base, count, zeros=0.5)
    fractions = {"density": [0.7] * count, "gamma": [0.02] * count}
    at_once = merge_task_vectors(base, tuned, weight=weight, **fractions)
    with thresholds(chunk=1000, short=500):
        in_chunks = merge_task_vectors(base, tuned, weight=weight, **fractions)
    assert torch.equal(bits_of(at_once), bits_of(in_chunks))
    assert not (at_once.signbit() & (at_once == 0)).any()


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("elect_sign", [False, True], ids=["plain", "ties"])
def test_threads_do_not_matter(elect_sign, granularity, set_threads):
    """One thread and several give the same bits, rescaled too."""
    base = noise(700, 3000).bfloat16()
    tuned = _models(base, 3, zeros=0.2)
    options = {
        "weight": [0.3, 0.5, 0.9],
        "density": [0.9, 0.15, 0.5],
        "gamma": [0.01, 0.006, 0.1],
        "lambda_": 0.9,
        "rescale": True,
        "normalize": True,
        "granularity": granularity,
        "elect_sign": elect_sign,
    }
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        results.append(merge_task_vectors(base, tuned, **options))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


VALUE = st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.25, 2.0, 3.0, -3.0, 0.125])


@given(
    st.lists(st.tuples(VALUE, VALUE, VALUE), min_size=1, max_size=40),
    st.lists(FRACTION, min_size=4, max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from(DTYPES),
)
def test_few_distinct_values(rows, fractions, elect_sign, normalize, dtype):
    """Ties everywhere, signs that cancel exactly: still the oracle's result."""
    base, *tuned = torch.tensor(rows, dtype=torch.float64).T.to(dtype)
    _check(
        base,
        tuned,
        weight=[0.5, 0.25],
        density=fractions[:2],
        gamma=fractions[2:],
        elect_sign=elect_sign,
        normalize=normalize,
    )
