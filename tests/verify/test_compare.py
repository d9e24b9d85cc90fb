"""Tensors compared bit by bit."""

import math

import pytest
import torch
from support.tensors import noise

from mergekit_breadcrumbs.verify import compare
from mergekit_breadcrumbs.verify.compare import (
    Difference,
    count_not_finite,
    difference,
)

NAN = math.nan
KINDS = [
    torch.float8_e4m3fn,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.int8,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.bool,
]


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_every_dtype(dtype: torch.dtype) -> None:
    """Equal to a copy; and a change is found, however the tensor lies in memory."""
    tensor = (noise(5, 7) * 40).to(dtype)
    assert difference(tensor, tensor.clone()) is None
    assert difference(tensor.T, tensor.clone().T) is None
    changed = tensor.clone()
    changed[3, 2] = torch.tensor(0 if tensor[3, 2] else 1).to(dtype)
    found = difference(tensor, changed)
    assert found is not None
    assert found.elements == 1
    assert found.largest > 0
    assert count_not_finite(tensor) == 0


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([], [], None),
        ([NAN, 1], [NAN, 1], None),
        ([0.0], [-0.0], Difference(1, 0, 1)),
        ([0.0, 1], [-0.0, 2], Difference(2, 1, 0)),
        ([NAN, 1], [0.5, 1], Difference(1, NAN, 3)),
        ([NAN, 1], [0.5, 3], Difference(2, 2, 0)),
        ([math.inf], [3], Difference(1, math.inf, 8)),
        ([math.inf], [-math.inf], Difference(1, math.inf, 1)),
        ([1, 2, 3], [1.5, 2, 1], Difference(2, 2, 0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_difference(
    one: list[float],
    other: list[float],
    found: Difference | None,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same wherever a piece ends; NaN has no difference from anything."""
    monkeypatch.setattr(compare, "CHUNK", chunk)
    x, y = (torch.tensor(values, dtype=torch.float32) for values in (one, other))
    got = difference(x, y)
    assert str(got) == str(found and found._replace(largest=float(found.largest)))


def test_numbers_alone() -> None:
    """A tensor of no dimensions has one element."""
    one, other = torch.tensor(1.0), torch.tensor(2.0)
    assert difference(one, one.clone()) is None
    assert difference(one, other) == (1, 1.0, 8)


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 77, 99_999])
@pytest.mark.parametrize("dtype", KINDS[:5], ids=str)
def test_not_finite_anywhere(dtype: torch.dtype, place: int, value: float) -> None:
    """One element among many is found, wherever it is."""
    tensor = noise(100_000).to(dtype)
    tensor[place] = torch.tensor(value).to(dtype)
    odd = not tensor[place].float().isfinite()  # float8 has no infinity
    assert count_not_finite(tensor) == odd
    assert count_not_finite(tensor[:0]) == 0


def test_integers_have_no_nan() -> None:
    """Not finite are floating-point numbers alone, in every part of a tensor."""
    assert count_not_finite(torch.tensor([1, 2])) == 0
    assert count_not_finite(torch.tensor(NAN).to(torch.float8_e4m3fn)) == 1
    assert count_not_finite(torch.tensor([1, complex(1, math.inf)])) == 1
