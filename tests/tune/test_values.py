"""Values in configs, held against what mergekit itself makes of them."""

import copy

import pytest
import yaml
from mergekit import merge_methods
from mergekit.common import ModelReference
from mergekit.config import (
    ConfigReader,
    InputSliceDefinition,
    MergeConfiguration,
    OutputSliceDefinition,
)
from mergekit.parameter_resolver import resolve_parameter

from mergekit_breadcrumbs.tune.search import Target
from mergekit_breadcrumbs.tune.values import replaced, starting_values, with_values

MODELS = """
merge_method: breadcrumbs
base_model: base
models:
  - model: base
    parameters: {weight: 7}
  - model: org/math
    parameters: {weight: 0.5, density: 0.7}
  - model: {model: {path: org/code}}
    parameters: {weight: [0.1, 0.9], gamma: 0.02}
parameters:
  density: [{filter: mlp, value: 0.2}, {value: 0.3}]
  lambda: 1e-1
"""
SLICES = """
merge_method: breadcrumbs_ties
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: org/math, layer_range: [0, 2], parameters: {weight: 0.4}}
      - {model: org/code, layer_range: [0, 2]}
    parameters: {weight: 0.3, lambda: 0.5, density: 0.4}
  - base_model: other
    sources:
      - {model: other, layer_range: [0, 2]}
      - {model: org/math, layer_range: [2, 4]}
      - {model: org/code, layer_range: [2, 4], parameters: {gamma: 0.1}}
parameters: {weight: 0.2, density: 0.6}
"""
MODULES = """
merge_method: breadcrumbs
base_model: base
modules:
  decoder:
    models:
      - {model: org/math, parameters: {density: 0.1}}
      - {model: org/code}
    parameters: {weight: 0.5, density: 0.2}
"""
SHARED = """
merge_method: breadcrumbs
base_model: base
models:
  - {model: org/math, parameters: &same {weight: 0.5, density: 0.7}}
  - {model: org/code, parameters: *same}
  - {model: org/law, parameters: {<<: *same, gamma: 0.1}}
"""
CONFIGS = {"models": MODELS, "slices": SLICES, "modules": MODULES, "aliases": SHARED}
MATH, CODE = Target("weight", "org/math"), Target("weight", "org/code")
TENSORS = ("model.layers.0.mlp.up_proj.weight", "model.norm.weight")


def resolved(data):
    """Return what every parameter of every model is, as mergekit resolves it."""
    config = MergeConfiguration.model_validate(copy.deepcopy(data))
    parameters = merge_methods.get(config.merge_method).spec.parameters
    found = {}
    for where, (reader, part) in enumerate(_parts(config)):
        for model in [source.model for source in part.sources]:
            if model == reader.base_model:
                continue
            for parameter in parameters:
                own = model if parameter.scope.value != "shared" else None
                for tensor in TENSORS:
                    try:
                        value = resolve_parameter(
                            parameter,
                            reader.parameter_sources(own),
                            tensor_name=tensor,
                            t=0.25,
                            model=own,
                        )
                    except RuntimeError:
                        value = "missing"
                    found[where, str(model), parameter.name, tensor] = value
    return found


def _parts(config):
    """Yield what mergekit's planner makes of a config: readers of output slices."""
    modules = (config.modules or {"all": None}).values()
    for module in modules:
        reader = ConfigReader(config=config, t=0.25, module=module)
        for part in (module or config).slices or ():
            yield reader.for_out_slice(part), part
        models = [
            InputSliceDefinition(layer_range=(0, 4), **dict(model))
            for model in (module or config).models or ()
        ]
        if models:
            part = OutputSliceDefinition(sources=models)
            yield reader.for_out_slice(part), part


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(
    "values",
    [
        {Target("density"): 0.11},
        {Target("lambda"): 0.22, Target("gamma"): 0.0},
        {MATH: 0.33},
        {MATH: 0.33, CODE: -0.44, Target("density"): 0.55},
        {Target("weight"): 0.66},
    ],
    ids=str,
)
def test_set(text, values):
    """mergekit resolves what was set everywhere, and all else as before."""
    data = yaml.safe_load(text)
    before, copied = resolved(data), copy.deepcopy(data)
    found = resolved(with_values(data, values))
    assert data == copied
    assert found.keys() == before.keys()
    assert found
    own = {target.parameter for target in values if target.model is not None}
    for (where, model, parameter, tensor), value in found.items():
        wanted = before[where, model, parameter, tensor]
        wanted = "missing" if parameter in own else wanted
        wanted = values.get(Target(parameter), wanted)
        wanted = values.get(Target(parameter, model), wanted)
        assert value == wanted, (where, model, parameter, tensor)


def test_nothing_is_shared():
    """A change of one section in the copy is a change of no other."""
    copied = with_values(yaml.safe_load(SHARED), {Target("lambda"): 1.0})
    copied["models"][0]["parameters"]["weight"] = 9
    assert [m["parameters"]["weight"] for m in copied["models"]] == [9, 0.5, 0.5]


def test_parameters_of_the_base_stay_its_own():
    """The base gets no weight, and loses what is searched for the others."""
    found = with_values(yaml.safe_load(MODELS), {MATH: 0.1, Target("density"): 0.5})
    assert found["models"][0] == {"model": "base"}


DEFAULTS = {"density": 0.9, "gamma": 0.01, "lambda": 1.0}


@pytest.mark.parametrize(
    ("text", "targets", "values"),
    [
        (MODELS, [Target("lambda")], [0.1]),
        (MODELS, [Target("gamma")], None),
        (MODELS, [Target("density")], None),
        (MODELS, [MATH], [0.5]),
        (MODELS, [CODE], None),
        (MODELS, [MATH, Target("lambda")], [0.5, 0.1]),
        (SLICES, [Target("density")], None),
        (SLICES, [Target("lambda")], None),
        (SLICES, [MATH], None),
        (MODULES, [Target("gamma")], [0.01]),
        (MODULES, [Target("density")], None),
        (MODULES, [MATH, CODE], [0.5, 0.5]),
        (SHARED, [Target("density"), MATH], [0.7, 0.5]),
        (SHARED, [Target("gamma")], None),
        (SHARED.replace("0.7", "true"), [Target("density")], None),
        (SHARED.replace("0.5", ".nan"), [MATH], None),
        (SHARED, [Target("weight", "org/none")], None),
    ],
)
def test_start(text, targets, values):
    """A value is what all models have; there is none where they differ."""
    found = starting_values(yaml.safe_load(text), targets, DEFAULTS, {"lambda"})
    assert found == (
        None if values is None else dict(zip(targets, values, strict=True))
    )


@pytest.mark.parametrize(
    ("text", "targets", "names"),
    [
        (MODELS, [Target("density"), Target("lambda"), MATH], ["density"]),
        (MODELS, [Target("gamma"), CODE], ["gamma", "weight"]),
        (SHARED, [Target("density"), MATH], []),
        (SHARED, [Target("normalize")], []),
    ],
)
def test_what_is_replaced(text, targets, names):
    """Gradients, filters, and values that models have of their own."""
    assert replaced(yaml.safe_load(text), targets, DEFAULTS, {"lambda"}) == names


OWN_BASE = """
merge_method: breadcrumbs
base_model: base
models:
  - {model: base, parameters: {density: 0.2, weight: 3}}
  - {model: org/math, parameters: {density: 0.7, lambda: 0.4}}
"""


def test_start_leaves_out_the_base():
    """What the base has does not count, and it is never given a weight."""
    data = yaml.safe_load(OWN_BASE)
    density, weight = Target("density"), Target("weight", "base")
    assert starting_values(data, [density], DEFAULTS, {"lambda"}) == {density: 0.7}
    assert starting_values(data, [weight], DEFAULTS, {"lambda"}) is None
    assert "weight" not in with_values(data, {weight: 0.5})["models"][0]["parameters"]


def test_start_of_what_models_share():
    """A model's own lambda is none: mergekit does not look there."""
    data = yaml.safe_load(OWN_BASE)
    lambda_, model = Target("lambda"), "org/math"
    assert starting_values(data, [lambda_], DEFAULTS, {"lambda"}) == {lambda_: 1.0}
    assert {v for k, v in resolved(data).items() if k[1:3] == (model, "lambda")} == {1}


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_start_is_what_the_config_means(text):
    """Where there are values to start from, setting them changes nothing."""
    data = yaml.safe_load(text)
    for target in (Target("lambda"), Target("gamma"), MATH, Target("density")):
        found = starting_values(data, [target], DEFAULTS, {"lambda"})
        if found is None:
            continue
        before, after = resolved(data), resolved(with_values(data, found))
        for key, value in after.items():
            if key[2] != target.parameter or target.model in (None, key[1]):
                assert value == before[key], key


def test_names_are_compared_as_mergekit_does():
    """A model is the same one, however the config writes it."""
    reference = ModelReference.parse("org/code+org/lora")
    data = {
        "merge_method": "breadcrumbs",
        "base_model": "base",
        "models": [{"model": reference.model_dump(mode="json")}],
    }
    found = with_values(data, {Target("weight", "org/code+org/lora"): 0.3})
    assert found["models"][0]["parameters"] == {"weight": 0.3}
