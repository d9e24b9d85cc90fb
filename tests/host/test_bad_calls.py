"""Library calls with bad input: refused by name, before anything is merged."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mergekit import merge_methods
from torch import Tensor

METHODS = ("breadcrumbs", "breadcrumbs_ties")
NAN, INF = float("nan"), float("inf")
Tensors = dict[str, Tensor]
Door = Callable[[str, Tensors, str | None, dict[str, Any]], Any]


def merge_tensors(
    method: str,
    tensors: dict[str, Tensor],
    base: str | None,
    parameters: dict[str, Any],
) -> Tensor:
    ids = list(tensors)
    return merge_methods.merge_tensors(
        list(tensors.values()),
        method,
        ids=ids,
        base_index=None if base is None else ids.index(base),
        name="w",
        parameters=parameters,
    )


def merge_state_dicts(
    method: str,
    tensors: dict[str, Tensor],
    base: str | None,
    parameters: dict[str, Any],
) -> Tensors:
    models = {key: {"w": tensor} for key, tensor in tensors.items()}
    return merge_methods.merge_state_dicts(
        models, method, base=base, parameters=parameters
    )


DOORS = [merge_tensors, merge_state_dicts]

# Parameters beside `weight: 1`, and what the error says.
VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "density over 1": (
        {"density": [0.5, 1.5]},
        "density must be in [0, 1]; got 1.5 for model y, tensor w",
    ),
    "density NaN": (
        {"density": NAN},
        "density must be in [0, 1]; got nan for model x, tensor w",
    ),
    "density bool": (
        {"density": {"x": 0.5, "y": True}},
        "density must be in [0, 1]; got True for model y, tensor w",
    ),
    "gamma under 0": (
        {"gamma": [-1, 0]},
        "gamma must be in [0, 1]; got -1 for model x, tensor w",
    ),
    "gamma None": (
        {"gamma": None},
        "gamma must be in [0, 1]; got None for model x, tensor w",
    ),
    "weight infinite": (
        {"weight": [1.0, INF]},
        "weight must be a finite number; got inf for model y, tensor w",
    ),
    "weight text": (
        {"weight": "much"},
        "weight must be a finite number; got 'much' for model x, tensor w",
    ),
    "lambda NaN": (
        {"lambda": NAN},
        "lambda must be a finite number; got nan for tensor w",
    ),
    "granularity": (
        {"granularity": "rows"},
        "granularity must be 'tensor' or 'row'; got 'rows' for tensor w",
    ),
    "one weight too few": (
        {"weight": [1.0]},
        "Parameter weight expects 2 values; got 1",
    ),
    "beta": ({"beta": 0.9}, "Unknown parameter(s) for breadcrumbs: beta"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", VALUES)
def test_values(name: str, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names parameter, input and tensor, before anything is merged."""
    parameters, message = VALUES[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        _call_unmerged(door, {"weight": 1.0, **parameters}, monkeypatch)
    assert str(caught.value) == message


LACKING: dict[str, tuple[dict[str, Any], tuple[str, ...], str | None, str]] = {
    "no weight": (
        {},
        ("base", "x", "y"),
        "base",
        "Missing required parameter weight for breadcrumbs",
    ),
    "no base": (
        {"weight": 1.0},
        ("x", "y"),
        None,
        "breadcrumbs requires a base input",
    ),
    "base alone": (
        {"weight": 1.0},
        ("base",),
        "base",
        "breadcrumbs requires a model besides the base",
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", LACKING)
def test_lacking(name: str, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing weight, base or model is an error before anything is merged."""
    parameters, ids, base, message = LACKING[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        _call_unmerged(door, parameters, monkeypatch, ids, base)
    assert str(caught.value).startswith(message)


def _call_unmerged(
    door: Door,
    parameters: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    ids: tuple[str, ...] = ("base", "x", "y"),
    base: str | None = "base",
) -> None:
    method = merge_methods.get("breadcrumbs")
    monkeypatch.setattr(
        type(method), "merge_group", lambda *_, **__: pytest.fail("was merged")
    )
    tensors = dict(zip(ids, torch.eye(len(ids)), strict=True))
    door("breadcrumbs", tensors, base, parameters)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("method", METHODS)
def test_non_finite_elements(method: str, door: Door) -> None:
    """The error names input and tensor, and says how many elements there are."""
    tensors = {key: torch.ones(2, 3) for key in ("base", "x", "y")}
    tensors["y"][0, 1], tensors["y"][1, 0] = INF, NAN
    with pytest.raises(ValueError, match="must be finite") as caught:
        door(method, tensors, "base", {"weight": 1.0})
    for part in ("model y, tensor w", "2 of 6 elements"):
        assert part in str(caught.value)


def test_parameter_by_itself() -> None:
    """Outside of a merge there is no place to name."""
    parameters = {p.name: p for p in merge_methods.get("breadcrumbs").spec.parameters}
    with pytest.raises(ValueError, match=r"^gamma must be in \[0, 1\]; got 2$"):
        parameters["gamma"].validate(2)
