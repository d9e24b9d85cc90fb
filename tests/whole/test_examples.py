"""Every example parses, and uses declared parameters only."""

import re

import pytest
from mergekit import merge_methods
from mergekit.config import MergeConfiguration
from mergekit.scripts.merge_raw_pytorch import RawPyTorchMergeConfig
from support.examples import EXAMPLES, Example, parameter_mappings

# One row for each kind that is to be there, with what makes an example one of them.
KINDS = [
    ("minimal", r"^parameters: \{density: 0.9, gamma: 0.01\}$"),
    ("per_model_values", r"^      gamma: "),
    ("gradient_and_filters", r"^    - value: \["),
    ("ties", r"^merge_method: breadcrumbs_ties$"),
    ("authors_setting", r"^  granularity: row$"),
    ("lora_adapter", r"^# Run: .* --lora-merge-cache "),
    ("files", r"Mistral-7B-v0.1\+./files/zephyr$"),
    ("files_added", r"^# Adding a contribution to files.yml"),
    ("files_removed", r"^# Taking a contribution away from files_added.yml"),
    ("files_lossless", r"^#   ./files/sparse --fraction 1`"),
    ("raw_pytorch", r"^# Run: mergekit-pytorch "),
    ("two_stage", r"^# Run: mergekit-multi "),
    ("llama_3_8b", r"^base_model: meta-llama/Meta-Llama-3-8B$"),
    ("llama_2_13b", r"^base_model: meta-llama/Llama-2-13b-hf$"),
    ("mistral_7b", r"^base_model: mistralai/Mistral-7B-v0.1$"),
    ("qwen3_4b", r"^base_model: Qwen/Qwen3-4B-Instruct-2507$"),
]
RECIPES = [name for name, _ in KINDS if re.search(r"_\d+b$", name)]


@pytest.fixture(params=EXAMPLES, ids=lambda file: file.stem)
def example(request: pytest.FixtureRequest) -> Example:
    return Example(request.param)


@pytest.mark.parametrize(("name", "pattern"), KINDS, ids=[name for name, _ in KINDS])
def test_every_kind_has_its_example(name: str, pattern: str) -> None:
    """The examples that were asked for are there, and are what their name says."""
    assert re.search(pattern, Example.named(name).text, flags=re.MULTILINE)


def test_every_example_is_of_a_kind() -> None:
    """None is left out of the table above."""
    assert {file.stem for file in EXAMPLES} == {name for name, _ in KINDS}


def test_layout(example: Example) -> None:
    """An example has 10 to 30 lines, no line is long, the first says what it shows."""
    lines = example.text.splitlines()
    assert 10 <= len(lines) <= 30
    assert max(map(len, lines)) <= 88
    assert re.match(r"# \w.{20,}", lines[0])


def test_minimal_is_ten_lines() -> None:
    """The config on the README's first screen stays as short as it is said to be."""
    assert len(Example.named("minimal").text.splitlines()) == 10


def test_parses(example: Example) -> None:
    """mergekit's own config classes accept every document."""
    raw = example.command("mergekit-")[0] == "mergekit-pytorch"
    for document in example.documents:
        document.pop("name", None)
        if raw:
            RawPyTorchMergeConfig.model_validate(document)
        else:
            MergeConfiguration.model_validate(document)


def test_uses_declared_parameters_only(example: Example) -> None:
    """mergekit ignores a name that no method declares, so a test has to notice it."""
    for document in example.documents:
        spec = merge_methods.get(document["merge_method"]).spec
        declared = {parameter.name for parameter in spec.parameters}
        mappings = list(parameter_mappings(document))
        assert any("weight" in mapping for mapping in mappings)
        for mapping in mappings:
            assert mapping.keys() <= declared


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_says_how_to_evaluate(name: str) -> None:
    """A recipe gives an lm-eval command for the directory that its merge writes."""
    (file,) = (file for file in EXAMPLES if file.stem == name)
    merge, evaluate = (
        Example(file).command("mergekit-"),
        Example(file).command("lm_eval"),
    )
    model = evaluate[evaluate.index("--model_args") + 1]
    assert f"pretrained={merge[2]}," in model
    assert f"dtype={Example(file).documents[-1]['dtype']}" in model
    assert "--tasks" in evaluate
