"""Numbers too large for their dtype are an error, and nothing else is one."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tensors import DTYPES, noise, thresholds

from mergekit_breadcrumbs.core import merge
from mergekit_breadcrumbs.core.merge import merge_task_vectors
from mergekit_breadcrumbs.core.overflow import count_non_finite

F16, BF16, F32, F64 = DTYPES
PLACES = {"sorted": (1 << 18, 1 << 15), "counted": (500, 100)}
"""Chunks and short slices: the same tensor as one short slice, and as a long one."""


class Case(NamedTuple):
    """One element that is changed, by how much in each model, and what is said."""

    dtype: torch.dtype
    base: float
    deltas: list[float]
    weight: list[float]
    said: str
    named: str = "ab"
    options: Mapping[str, Any] = MappingProxyType({})


TIES = {"elect_sign": True}
NORMALIZE = {"normalize": True}
CASES = {
    "lambda": Case(
        F32, 1, [1, 2], [0.5, 0.25], "lambda 1e+300", "ab", {"lambda_": 1e300}
    ),
    "lambda, in ties": Case(
        F32, 1, [1, 2], [0.5, 0.2], "lambda 1e+39", "ab", {"lambda_": 1e39, **TIES}
    ),
    "lambda that float32 holds": Case(
        F32, 0, [16, -64], [1, 1e-2], "lambda 1e+38", "a", {"lambda_": 1e38}
    ),
    "a weight": Case(F32, 1, [2, 2], [1e308, 1], "weight 1e+308,", "a"),
    "a weight, in ties": Case(F32, 1, [2, 2], [1, -1e39], "weight -1e+39", "b", TIES),
    "an infinite weight": Case(F32, 1, [2, 2], [1, -torch.inf], "weight -inf,", "b"),
    "a weight that is no number": Case(F32, 1, [2, 2], [1, torch.nan], "nan,", "b"),
    "a weight that float32 holds": Case(F32, 1, [2, 8], [1, 1e38], "weight 1e+38", "b"),
    "weight by lambda": Case(
        F32, 0, [1, 1], [1e30, 1], "weight 1e+30, lambda 1e+30", "a", {"lambda_": 1e30}
    ),
    "weights that cancel": Case(
        F32, 0, [4, 4], [2e38, -2e38], "weight 2e+38 and -2e+38", "ab"
    ),
    "nothing survives": Case(F32, 1, [0, 0], [1e308, 1], "weight 1e+308,", "a"),
    "float16 by one model": Case(F16, 0, [8, 1], [1e4, 1], "weight 10000,", "a"),
    "float16 by the sum": Case(F16, 64992, [512, 512], [0.9, 0.8], "0.9 and 0.8", "ab"),
    "float16 by negative weights": Case(
        F16, -65504, [128, 1024], [-0.5, -0.5], "weight -0.5,", "ab"
    ),
    "float16 by ties": Case(
        F16, 60000, [3008, -32], [2, 2], "bfloat16 or float32", "ab", TIES
    ),
    "bfloat16": Case(BF16, 0, [2.0**100, 1], [2.0**28, 1], "for bfloat16", "a"),
    "bfloat16 by rounding": Case(
        BF16, 3.38953139e38, [-1.0e36, 0], [-1, 1], "weight -1", "ab"
    ),
    "float64": Case(F64, 0, [1e300, 1], [1e9, 1], "for float64", "a"),
    "a small sum of weights": Case(
        F32, 0, [1, 1], [3e-8, -1e-8], "normalize, lambda 1e+35", "ab",
        {"lambda_": 1e35, **NORMALIZE},
    ),
    "a sum of weights over any float": Case(
        F64, 0, [0.5, 0.5], [1.7e308, 1.7e308], "weight 1.7e+308, normalize", "ab",
        NORMALIZE,
    ),
    "a sum of weights over any float32, in ties": Case(
        F32, 0, [1e-3, 1e-3], [3e38, 3e38], "weight 3e+38, normalize", "ab",
        {**TIES, **NORMALIZE},
    ),
    "weights that nearly cancel, in ties": Case(
        F16, 0, [0.5, -0.5], [1, -0.99999], "normalize", "ab", {**TIES, **NORMALIZE}
    ),
    "a sum that lambda would make small": Case(
        F32, 0, [1e20, 1], [1e20, 1], "lambda 1e-30", "a", {"lambda_": 1e-30}
    ),
}  # fmt: skip


def _inputs(case: Case) -> list[torch.Tensor]:
    """A base of 20 x 30 and its fine-tunings, with one element that stands out."""
    base = torch.zeros(20, 30, dtype=case.dtype)
    base[7, 11] = case.base
    tuned = []
    for delta in case.deltas:
        model = base.clone()
        model[7, 11] += delta
        tuned.append(model)
    return [base, *tuned]


@pytest.mark.parametrize("recorded", [False, True], ids=["", "recorded"])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_too_large(case: Case, place: str, granularity: Any, recorded: bool) -> None:
    """The error names the tensor, the model if one is to blame, and the numbers."""
    base, *tuned = _inputs(case)
    chunk, short = PLACES[place]
    with (
        thresholds(chunk=chunk, short=short),
        pytest.raises(ValueError, match="too large") as caught,
    ):
        merge_task_vectors(
            base.requires_grad_(recorded),
            tuned,
            weight=case.weight,
            density=[0.5, 0.5],
            gamma=[0, 0],
            granularity=granularity,
            names=["model a", "model b"],
            tensor="the.weight",
            **case.options,
        )
    message = str(caught.value)
    names = ", ".join(f"model {letter}" for letter in case.named)
    assert (
        f"of 600 elements are too large for {_name(case.dtype)} ({names}, tensor"
        in (message)
    )
    assert "tensor the.weight)" in message
    assert case.said in message


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def test_how_many_elements() -> None:
    """Only those that are not finite are counted; without names there are numbers."""
    base = torch.zeros(4, 8)
    tuned = [torch.zeros(4, 8), noise(4, 8)]
    tuned[0][1, :3] = 1e38
    with pytest.raises(
        ValueError, match=r"; 3 of 32 .*\(task vector 0\), with weight 9"
    ):
        merge_task_vectors(base, tuned, weight=[9, 1], density=[1, 1], gamma=[0, 0])


def test_what_a_rescaling_asks() -> None:
    """A norm over any float64 does not make the ratio of two norms wrong."""
    delta = torch.linspace(1e307, 1e308, 1000, dtype=F64)
    expected = torch.where(delta >= delta[500], delta, 0)
    ratio = float((delta / 1e300).sum() / (expected / 1e300).sum())
    for recorded in (False, True):
        merged = merge_task_vectors(
            torch.zeros(1000, dtype=F64).requires_grad_(recorded),
            [delta],
            weight=[0.5],
            density=[0.5],
            gamma=[0],
            rescale=True,
        ).detach()
        torch.testing.assert_close(merged, expected * (ratio * 0.5), rtol=1e-12, atol=0)


@pytest.mark.parametrize("elect_sign", [False, True])
def test_a_rescaling_too_large(elect_sign: bool) -> None:
    """Where the ratio itself, or what it is multiplied with, is over any float64."""
    delta = torch.full((100,), 1e-3, dtype=F64)
    delta[:50] = 1e308
    options: dict[str, Any] = {"rescale": True, "elect_sign": elect_sign}
    for weight, ratio in ((1.0, r"inf"), (1e10, "inf")):
        with pytest.raises(ValueError, match=f"rescale by {ratio}"):
            merge_task_vectors(
                torch.zeros(100, dtype=F64),
                [delta],
                weight=[weight],
                density=[0.5],
                gamma=[0.5],
                **options,
            )


def test_a_float32_norm_does_not_spoil_recorded_gradients() -> None:
    """Norms are taken in float64 there too."""
    base = torch.zeros(200, requires_grad=True)
    delta = torch.full((200,), 1e37)
    options: dict[str, Any] = {"density": [0.5], "gamma": [0], "rescale": True}
    merged = merge_task_vectors(base, [delta], weight=[1e-3], **options)
    assert count_non_finite(merged) == 0
    with torch.no_grad():
        assert torch.equal(
            merge_task_vectors(base, [delta], weight=[1e-3], **options), merged
        )


@pytest.mark.parametrize("elect_sign", [False, True], ids=["plain", "ties"])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_element_is_looked_at(
    dtype: torch.dtype,
    place: str,
    granularity: Any,
    elect_sign: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is known of the task vectors anyway tells that nothing can be too large."""
    monkeypatch.setattr(merge, "refuse_overflow", lambda *_: pytest.fail("it was"))
    base = noise(20, 30).to(dtype)
    base[0, 0] = torch.finfo(dtype).max
    tuned = [(base + noise(20, 30, seed=seed) * 0.1).to(dtype) for seed in (1, 2)]
    chunk, short = PLACES[place]
    for gamma in (0.0, 0.01):
        for density in (0.5, 1.0):
            with thresholds(chunk=chunk, short=short):
                merge_task_vectors(
                    base,
                    tuned,
                    weight=[0.5, 0.9],
                    density=[density] * 2,
                    gamma=[gamma] * 2,
                    lambda_=1.5,
                    normalize=True,
                    granularity=granularity,
                    elect_sign=elect_sign,
                )


EXPONENT = st.floats(-1.1, 1.1)
"""Of a number, as a share of what its dtype can hold."""


@given(
    st.sampled_from(DTYPES),
    st.lists(st.tuples(EXPONENT, EXPONENT, EXPONENT), min_size=4, max_size=12),
    st.tuples(EXPONENT, EXPONENT, EXPONENT),
    st.tuples(*[st.booleans()] * 4),
    st.sampled_from(list(PLACES.values())),
)
def test_an_error_just_where_a_result_is_not_finite(
    dtype, exponents, coefficients, switches, place
):
    """Numbers of every size: never a result that is not finite, never a false alarm."""
    info = torch.finfo(dtype)

    def numbers(values, bits):
        values = torch.tensor(values, dtype=F64)
        return values.sign() * (values.abs() * bits).exp2()

    values = numbers(exponents, math.log2(info.max))
    base, *tuned = values.clamp(info.min / 2, info.max / 2).T.to(dtype)
    bits = 512 if dtype == F64 else 64
    *weight, lambda_ = numbers(coefficients, bits).tolist()
    elect_sign, normalize, rescale, near = switches
    if near:  # the largest base, and little to take away
        base = torch.full_like(base, info.max)
        tuned = [base - t.abs() * info.eps for t in tuned]
    options = {"elect_sign": elect_sign, "normalize": normalize, "rescale": rescale}
    options |= {"weight": weight, "lambda_": lambda_}
    options |= {"density": [0.7, 1.0], "gamma": [0.2, 0.0]}
    with pytest.MonkeyPatch.context() as patch, thresholds(chunk=5, short=place[1] % 3):
        try:
            refused = None
            merged = merge_task_vectors(base, tuned, **options)
        except ValueError as error:
            refused = error
            patch.setattr(merge, "refuse_overflow", lambda *_: None)
            merged = merge_task_vectors(base, tuned, **options)
    assert (refused is None) == bool(merged.isfinite().all()), refused


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_counting(dtype: torch.dtype) -> None:
    """Infinities and what is no number are counted, the largest number is not."""
    values = torch.full((10, 50), torch.finfo(dtype).max, dtype=dtype)
    values[3, 4], values[5, 6], values[9, 49] = torch.inf, -torch.inf, torch.nan
    for chunk in (7, 1 << 18):
        with thresholds(chunk=chunk, short=10):
            assert count_non_finite(values) == 3
            assert count_non_finite(values[:3]) == 0
