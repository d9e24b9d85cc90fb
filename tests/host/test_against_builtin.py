"""Our methods beside mergekit's own: a drop-in, and where both are defined, equal."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from mergekit import merge_methods
from mergekit.merge_methods.base import BasePolicy
from mergekit.merge_methods.generalized_task_arithmetic import (
    ConsensusMethod,
    GeneralizedTaskArithmeticMerge,
)
from mergekit.sparsify import RescaleNorm, SparsificationMethod, magnitude_outliers
from torch import Tensor

from mergekit_breadcrumbs import survivor_mask

METHODS = ("breadcrumbs", "breadcrumbs_ties")


def _builtin(name: str) -> GeneralizedTaskArithmeticMerge:
    """The method as mergekit 0.1.5 makes it, before this package takes its place."""
    return GeneralizedTaskArithmeticMerge(
        consensus_method=ConsensusMethod.sum if name == METHODS[1] else None,
        sparsification_method=SparsificationMethod.magnitude_outliers,
        default_normalize=False,
        default_rescale=False,
        method_name=name,
        method_pretty_name=None,
        method_reference_url="https://arxiv.org/abs/2312.06795",
    )


BUILTIN = {name: _builtin(name) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_drop_in(name: str) -> None:
    """Code that knows mergekit's method finds all it reads, with the same values."""
    ours, theirs = merge_methods.get(name), BUILTIN[name]
    assert isinstance(ours, GeneralizedTaskArithmeticMerge)
    assert type(ours) is not GeneralizedTaskArithmeticMerge
    for attribute in (
        "consensus_method",
        "sparsification_method",
        "default_normalize",
        "default_rescale",
        "method_name",
        "method_reference_url",
        "supports_batching",
    ):
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert ours.spec.name == name
    assert ours.spec.contract == theirs.spec.contract
    assert ours.spec.contract.base == BasePolicy.REQUIRED
    assert ours.spec.reference_url == theirs.spec.reference_url
    assert ours.spec.optional_tensor_policy == theirs.spec.optional_tensor_policy
    assert ours.spec.uses_accelerator == theirs.spec.uses_accelerator
    assert ours.spec.pretty_name == ours.method_pretty_name
    scopes = {p.name: p.scope for p in ours.spec.parameters}
    assert scopes.items() >= {p.name: p.scope for p in theirs.spec.parameters}.items()
    assert ours in merge_methods.registered_methods()


@pytest.mark.parametrize("name", METHODS)
def test_copies(name: str) -> None:
    """Like mergekit's a method is compared by value; unlike it, it can be pickled."""
    method = merge_methods.get(name)
    for copied in (pickle.loads(pickle.dumps(method)), copy.deepcopy(method)):
        assert copied == method
        assert hash(copied) == hash(method)
        assert copied.spec.name == name


def _models(shape: tuple[int, ...], count: int, seed: int) -> list[Tensor]:
    """A base and `count` fine-tunings in float64 without equal magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    base = torch.randn(shape, **draw)
    return [base, *(base + torch.randn(shape, **draw) ** 3 for _ in range(count))]


SHAPES = st.sampled_from([(2,), (7,), (100,), (331,), (13, 17), (3, 4, 5, 6)])
FRACTION = st.floats(0, 1)
WEIGHT = st.floats(-2, 2).filter(lambda w: abs(w) > 1e-3)
SEED = st.integers(0, 2**32 - 1)


def _is_defined(elements: int, density: float) -> bool:
    """Whether mergekit keeps what METHOD says: something, of more than one."""
    return elements > 1 and int(density * elements) >= 1


@given(SHAPES, FRACTION, FRACTION, SEED)
def test_same_mask(
    shape: tuple[int, ...], density: float, gamma: float, seed: int
) -> None:
    """The survivors are those of `mergekit.sparsify.magnitude_outliers`."""
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    # Equal magnitudes are where the two may differ; `ranked` keeps the float32 values.
    ranked = delta.abs().flatten().sort().values
    assume(bool((ranked[1:] > ranked[:-1]).all()) and float(ranked[0]) > 0)
    assume(_is_defined(delta.numel(), density))
    theirs = magnitude_outliers(delta, density=density, gamma=gamma)
    mask = survivor_mask(delta, density=density, gamma=gamma)
    assert torch.equal(mask, theirs != 0)
    assert torch.equal(torch.where(mask, delta, 0), theirs)


@st.composite
def merges(draw: st.DrawFn) -> tuple[list[Tensor], dict[str, Any]]:
    """Inputs and parameters for which mergekit's result is well defined."""
    shape, count = draw(SHAPES), draw(st.integers(1, 5))
    inputs = _models(shape, count, draw(SEED))

    def per_model(strategy: st.SearchStrategy[float]) -> list[float]:
        return draw(st.lists(strategy, min_size=count, max_size=count))

    parameters = {
        "weight": per_model(WEIGHT),
        "density": per_model(FRACTION),
        "gamma": per_model(FRACTION),
        "lambda": draw(st.floats(-3, 3)),
        "normalize": draw(st.booleans()),
        "rescale": draw(st.booleans()),
    }
    elements = inputs[0].numel()
    assume(all(_is_defined(elements, d) for d in parameters["density"]))
    # Dividing by a sum that is nearly zero magnifies the roundings of both.
    assume(_smallest_sum(parameters["weight"]) > 1e-3)
    for tuned in inputs[1:]:
        # mergekit ranks float32 copies.
        ranked = (tuned - inputs[0]).float().abs().flatten().sort().values
        assume(bool((ranked[1:] > ranked[:-1]).all()))
    return inputs, parameters


def _smallest_sum(weights: list[float]) -> float:
    """The least magnitude that the weights of any of the models add up to."""
    sums = {0.0}
    for weight in weights:
        sums |= {s + weight for s in sums}
    sums -= {0.0}
    return min(map(abs, sums))


def _merge(method: Any, inputs: list[Tensor], parameters: dict[str, Any]) -> Tensor:
    models = [{"w": tensor} for tensor in inputs]
    merged = merge_methods.merge_state_dicts(
        models, method, base=0, parameters=parameters
    )
    return merged["w"]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@given(case=merges())
def test_same_merge(name: str, case: tuple[list[Tensor], dict[str, Any]]) -> None:
    """In float64 both give the same weights, but for float64's own rounding."""
    inputs, parameters = case
    ours = _merge(name, inputs, parameters)
    theirs = _merge(BUILTIN[name], inputs, parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@given(case=merges())
def test_same_gradients(name: str, case: tuple[list[Tensor], dict[str, Any]]) -> None:
    """Every input gets the gradient that it gets through mergekit's method."""
    inputs, parameters = case
    gradients = []
    for method in (name, BUILTIN[name]):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        loss = _merge(method, leaves, parameters).square().sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    for ours, theirs in zip(*gradients, strict=True):
        size = 1 + float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8 * size)


class _Weights(torch.nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.a = torch.nn.Parameter(torch.randn(20, 11, generator=generator))
        self.b = torch.nn.Parameter(torch.randn(150, generator=generator))


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_modules_in_half_precision(name: str, rescale: bool) -> None:
    """Gradients reach a module's parameters in the parameters' own dtype."""
    modules = [_Weights(seed).bfloat16() for seed in range(3)]
    parameters = {"weight": 0.5, "density": 0.5, "gamma": 0.05, "rescale": rescale}
    merged = merge_methods.merge_state_dicts(
        modules, name, base=0, parameters=parameters
    )
    sum(tensor.float().sum() for tensor in merged.values()).backward()
    for module in modules:
        for parameter in module.parameters():
            assert parameter.grad.dtype == torch.bfloat16
            assert parameter.grad.isfinite().all()
            assert parameter.grad.count_nonzero() > 0


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_gradcheck(name: str, rescale: bool, normalize: bool, granularity: str) -> None:
    """Gradients are those of finite differences, with the survivors held."""
    # Magnitudes so far apart that no small step changes a rank or a sign's election.
    steps = torch.arange(1, 13, dtype=torch.float64).reshape(3, 4)
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0] * 3, dtype=torch.float64).reshape(3, 4)
    base = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    inputs = (base, base + steps * signs, base + steps.flip(0, 1) * signs.flip(1))

    def merged(*tensors: Tensor) -> Tensor:
        return merge_methods.merge_tensors(
            tensors,
            name,
            base_index=0,
            parameters={
                "weight": [0.7, 0.4],
                "density": 0.5,
                "gamma": 0.25,
                "lambda": 1.5,
                "rescale": rescale,
                "normalize": normalize,
                "granularity": granularity,
            },
        )

    leaves = tuple(tensor.clone().requires_grad_() for tensor in inputs)
    assert torch.autograd.gradcheck(merged, leaves)


@pytest.mark.parametrize("name", METHODS)
def test_default_density_differs(name: str) -> None:
    """mergekit's default masks nothing at all; ours is 0.9."""
    inputs = _models((10, 10), 1, seed=0)
    theirs = _merge(BUILTIN[name], inputs, {"weight": 1.0})
    ours = _merge(name, inputs, {"weight": 1.0})
    torch.testing.assert_close(theirs, inputs[1])
    assert int((ours != inputs[0]).sum()) == 90
    dense = _merge(name, inputs, {"weight": 1.0, "density": 1.0})
    torch.testing.assert_close(dense, inputs[1])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_element_differs(shape: tuple[int, ...], name: str) -> None:
    """mergekit drops the task vector of a lone element; we keep at least one."""
    inputs = [torch.zeros(shape), torch.ones(shape)]
    parameters = {"weight": 1.0, "density": 0.9}
    assert _merge(BUILTIN[name], inputs, parameters).item() == 0.0
    assert _merge(name, inputs, parameters).item() == 1.0
    parameters["density"] = 0.0
    assert _merge(name, inputs, parameters).item() == 0.0


def test_accumulation_differs() -> None:
    """mergekit rounds the sum to bfloat16, and again what lambda makes of it."""
    base = torch.zeros(2, dtype=torch.bfloat16)
    large = torch.tensor([256.0, 0.0], dtype=torch.bfloat16)
    small = torch.tensor([1.0, 0.0], dtype=torch.bfloat16)
    inputs = [base, large, small]
    parameters = {"weight": 1.0, "density": 1.0, "lambda": 3.0}
    # 3 * 257 = 771: 257 is halfway between two numbers of bfloat16, 256 and 258.
    assert _merge(BUILTIN["breadcrumbs"], inputs, parameters)[0].item() == 768.0
    assert _merge("breadcrumbs", inputs, parameters)[0].item() == 772.0


def test_rescaling_is_mergekits() -> None:
    """The L1 norm of the whole task vector is restored, as mergekit restores it."""
    base, tuned = _models((40, 40), 1, seed=3)
    theirs = magnitude_outliers(
        tuned - base, density=0.3, gamma=0.05, rescale_norm=RescaleNorm.l1
    )
    parameters = {"weight": 1.0, "density": 0.3, "gamma": 0.05, "rescale": True}
    ours = _merge("breadcrumbs", [base, tuned], parameters)
    torch.testing.assert_close(ours - base, theirs)
