"""Which values reach the method, for every way in which a config can give them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit import merge_methods
from mergekit.merge_methods.base import MISSING, ParameterScope, TensorGroup
from support.checkpoints import finetune, make_base
from support.merging import configuration, merge

METHODS = ("breadcrumbs", "breadcrumbs_ties")
LAYERS = 5
Values = dict[str, dict[str, Any]]
Received = Callable[..., Values]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base of five layers and two fine-tunings of it, `a` and `b`."""
    root = tmp_path_factory.mktemp("models")
    base = make_base(root / "base", layers=LAYERS)
    return base, finetune(base, root / "a", seed=1), finetune(base, root / "b", seed=2)


@pytest.fixture
def received(
    models: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Received:
    """Run a config; give what `merge_group` got for every tensor.

    Values of `a` and `b` are at "a" and "b", shared ones at "shared".
    """
    got: dict[str, Values] = {}

    def record(self: Any, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        values: Values = {"shared": {}}
        for key, value in parameters.items():
            if isinstance(value, Mapping):
                for model, one in value.items():
                    values.setdefault(Path(str(model)).name, {})[key] = one
            else:
                values["shared"][key] = value
        got[group.metadata.name] = values
        return group.base.tensor

    monkeypatch.setattr(type(merge_methods.get("breadcrumbs")), "merge_group", record)

    def run(text: str) -> dict[str, Values]:
        """Run a config in YAML; `$base`, `$a` and `$b` in it are the checkpoints."""
        for path in models:
            text = text.replace(f"${path.name}", str(path))
        merge(yaml.safe_load(text), tmp_path / "out")
        assert len(got) == 3 + 9 * LAYERS
        return got

    return run


HEADER = """
merge_method: breadcrumbs
base_model: $base
"""
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


def _name(layer: int, part: str) -> str:
    return f"model.layers.{layer}.{part}.weight"


UP, QUERY = "mlp.up_proj", "self_attn.q_proj"


def test_declaration() -> None:
    """Names, scopes and defaults are METHOD's; only `weight` has no default."""
    declared = {
        "weight": (ParameterScope.NON_BASE, MISSING),
        "density": (ParameterScope.NON_BASE, 0.9),
        "gamma": (ParameterScope.NON_BASE, 0.01),
        "lambda": (ParameterScope.SHARED, 1.0),
        "normalize": (ParameterScope.SHARED, False),
        "rescale": (ParameterScope.SHARED, False),
        "granularity": (ParameterScope.SHARED, "tensor"),
        "int8_mask": (ParameterScope.SHARED, False),
    }
    for method in METHODS:
        parameters = merge_methods.get(method).spec.parameters
        assert {p.name: (p.scope, p.default) for p in parameters} == declared


def test_defaults(received: Received) -> None:
    """What a config leaves out has METHOD's default, as a plain number."""
    got = received(
        HEADER
        + """
models: [{model: $a}, {model: $b}]
parameters: {weight: 1}
"""
    )
    for values in got.values():
        assert values["shared"] == {
            "lambda": 1.0,
            "normalize": False,
            "rescale": False,
            "granularity": "tensor",
            "int8_mask": False,
        }
        for model in ("a", "b"):
            assert values[model] == {"weight": 1.0, "density": 0.9, "gamma": 0.01}
            assert {type(value) for value in values[model].values()} == {float}


def test_per_model_values_and_precedence(received: Received) -> None:
    """A model's own value wins over the config's; the base has none."""
    got = received(
        HEADER
        + """
models:
  - model: $base
    parameters: {weight: not a number, density: 7}
  - model: $a
    parameters: {weight: 0.25, density: 0.5}
  - model: $b
    parameters: {weight: -2, gamma: 0}
parameters: {weight: 9, density: 0.75, gamma: 0.125, lambda: -0.5}
"""
    )
    for values in got.values():
        assert values.keys() == {"shared", "a", "b"}
        assert values["a"] == {"weight": 0.25, "density": 0.5, "gamma": 0.125}
        assert values["b"] == {"weight": -2.0, "density": 0.75, "gamma": 0.0}
        assert values["shared"]["lambda"] == -0.5


def test_every_level(received: Received) -> None:
    """A source wins over its slice, a slice over its module, that over the config."""
    got = received(
        HEADER
        + """
modules:
  default:
    parameters: {gamma: 0.02, density: 0.02, lambda: 0.02}
    slices:
      - parameters: {density: 0.03, lambda: 0.03}
        sources:
          - {model: $base, layer_range: [0, 2]}
          - {model: $a, layer_range: [0, 2], parameters: {density: 0.04}}
          - {model: $b, layer_range: [0, 2]}
      - sources:
          - {model: $base, layer_range: [2, 5]}
          - {model: $a, layer_range: [2, 5]}
          - {model: $b, layer_range: [2, 5]}
parameters: {weight: 0.01, gamma: 0.01, density: 0.01, lambda: 0.01}
"""
    )
    first, second = got[_name(1, UP)], got[_name(2, UP)]
    assert first["a"] == {"weight": 0.01, "density": 0.04, "gamma": 0.02}
    assert first["b"] == {"weight": 0.01, "density": 0.03, "gamma": 0.02}
    assert first["shared"]["lambda"] == 0.03
    assert second["a"] == {"weight": 0.01, "density": 0.02, "gamma": 0.02}
    assert second["shared"]["lambda"] == 0.02


GRADIENTS = [
    # A list as in the YAML, and its values at layers 0 to 4.
    ("[0, 1]", [0, 0.25, 0.5, 0.75, 1]),
    ("[1, 0.5, 0]", [1, 0.75, 0.5, 0.25, 0]),
    ("[0.2, 0.6, 0.6, 0.6, 1]", [0.2, 0.6, 0.6, 0.6, 1]),
    ("[1e-3, 5e-3]", [0.001, 0.002, 0.003, 0.004, 0.005]),
    ("[0.3]", [0.3] * 5),
]


@pytest.mark.parametrize("key", ["weight", "density", "gamma"])
@pytest.mark.parametrize(("gradient", "layers"), GRADIENTS)
def test_layer_gradients(
    key: str, gradient: str, layers: list[float], received: Received
) -> None:
    """A list is interpolated from the first layer to the last."""
    got = received(
        HEADER
        + f"""
models: [{{model: $a, parameters: {{{key}: {gradient}}}}}, {{model: $b}}]
parameters: {{weight: 1, {key}: 0.5, lambda: {gradient}}}
"""
    )
    for layer, expected in enumerate(layers):
        for part in (UP, QUERY):
            values = got[_name(layer, part)]
            assert values["a"][key] == pytest.approx(expected, abs=1e-15)
            assert values["b"][key] == 0.5
            assert values["shared"]["lambda"] == pytest.approx(expected, abs=1e-15)
    # mergekit takes what lies before and after the layers for the first of them.
    assert got[EMBEDDING]["a"][key] == got[NORM]["a"][key] == layers[0]


def test_name_filters(received: Received) -> None:
    """The first filter that is part of the tensor's name decides; the last has none."""
    got = received(
        HEADER
        + """
models:
  - model: $a
    parameters:
      density:
        - {filter: embed_tokens, value: 1}
        - {filter: norm, value: 0.95}
        - {filter: mlp, value: [0.1, 0.5]}
        - {value: 0.3}
      gamma: {filter: self_attn, value: 0.125}
  - model: $b
    parameters:
      weight: [{filter: q_proj, value: -1}, {filter: "*", value: 2}]
parameters:
  weight: 0.5
  granularity: [{filter: mlp, value: row}]
  rescale: [{filter: self_attn, value: true}, {value: false}]
"""
    )
    # Tensor: density and gamma of a, weight of b, granularity, rescale.
    expected: dict[str, tuple[Any, ...]] = {
        EMBEDDING: (1.0, 0.01, 2.0, "tensor", False),
        NORM: (0.95, 0.01, 2.0, "tensor", False),
        _name(2, "input_layernorm"): (0.95, 0.01, 2.0, "tensor", False),
        _name(0, UP): (0.1, 0.01, 2.0, "row", False),
        _name(4, UP): (0.5, 0.01, 2.0, "row", False),
        _name(1, QUERY): (0.3, 0.125, -1.0, "tensor", True),
        _name(1, "self_attn.k_proj"): (0.3, 0.125, 2.0, "tensor", True),
        "lm_head.weight": (0.3, 0.01, 2.0, "tensor", False),
    }
    for name, values in expected.items():
        a, b, shared = got[name]["a"], got[name]["b"], got[name]["shared"]
        assert (a["weight"], b["density"], b["gamma"]) == (0.5, 0.9, 0.01)
        actual = (a["density"], a["gamma"], b["weight"])
        assert (*actual, shared["granularity"], shared["rescale"]) == values, name


def test_scientific_notation(received: Received) -> None:
    """PyYAML reads `1e-3` as text; as in mergekit it is a number all the same."""
    text = """
models: [{model: $a, parameters: {weight: 2e0}}, {model: $b}]
parameters: {weight: "0.5", density: 9e-1, gamma: 1e-3, lambda: 1e1}
"""
    assert yaml.safe_load(text)["parameters"]["gamma"] == "1e-3"
    for values in received(HEADER + text).values():
        assert values["a"] == {"weight": 2.0, "density": 0.9, "gamma": 0.001}
        assert values["b"] == {"weight": 0.5, "density": 0.9, "gamma": 0.001}
        assert values["shared"]["lambda"] == 10.0


def test_shared_parameters_have_no_value_per_model(received: Received) -> None:
    """What is not per model is not looked for there, as with all mergekit's methods."""
    got = received(
        HEADER
        + """
models:
  - {model: $a, parameters: {granularity: row, lambda: 7, rescale: true}}
  - {model: $b}
parameters: {weight: 1}
"""
    )
    for values in got.values():
        assert values["a"].keys() == {"weight", "density", "gamma"}
        assert values["shared"]["granularity"] == "tensor"
        assert values["shared"]["lambda"] == 1.0
        assert values["shared"]["rescale"] is False


@pytest.mark.parametrize("method", METHODS)
def test_int8_mask_has_no_effect(
    method: str, models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Configs that ask for mergekit's int8 mask merge to the same bits."""
    base, *tuned = models
    parts = {path: {"weight": 0.5, "density": 0.5} for path in tuned}
    plain, masked = (
        merge(configuration(method, base, parts, shared), tmp_path / name)
        for name, shared in (("plain", {}), ("masked", {"int8_mask": True}))
    )
    assert all(torch.equal(plain[name], masked[name]) for name in plain)


IN_PYTHON: dict[str, dict[str, Any]] = {
    "numbers": {"weight": 0.5, "density": 0.25, "gamma": 0.0},
    "sequences": {"weight": [0.5, 0.5], "density": (0.25, 0.25), "gamma": [0, 0.0]},
    "mappings": {
        "weight": {"y": 0.5, "z": 0.5},
        "density": {"z": 0.25, "y": 0.25},
        "gamma": {"x": 1.0, "y": 0.0, "z": 0.0},
    },
}


@pytest.mark.parametrize("parameters", IN_PYTHON.values(), ids=IN_PYTHON)
def test_values_in_python(parameters: dict[str, Any]) -> None:
    """Library calls take one number, one per model, or a mapping from input ids."""
    x = torch.zeros(4)
    y, z = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([8.0, 4.0, 2.0, 1.0])
    merged = merge_methods.merge_tensors(
        [x, y, z],
        "breadcrumbs",
        ids=["x", "y", "z"],
        base_index=0,
        parameters=parameters,
    )
    assert merged.tolist() == [4.0, 0.0, 0.0, 2.0]
