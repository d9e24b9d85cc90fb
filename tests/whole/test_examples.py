"""Every example parses, uses declared parameters only, and runs by its own command.

The command of an example stands in a comment of it. It is run as it stands, with the
example's model names mapped to tiny checkpoints (see `stand_ins`).
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from mergekit import merge_methods
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.scripts.merge_raw_pytorch import RawPyTorchMergeConfig
from support import checkpoints, oracle
from support.examples import EXAMPLES, Example, with_references
from support.stand_ins import LLAMA_3, VIT, StandIns
from torch import Tensor

# One row for each kind that is to be there, with what makes an example one of them.
KINDS = [
    ("minimal", r"^parameters: \{density: 0.9, gamma: 0.01\}$"),
    ("per_model_values", r"^      gamma: "),
    ("gradient_and_filters", r"^    - value: \["),
    ("ties", r"^merge_method: breadcrumbs_ties$"),
    ("authors_setting", r"^  granularity: row$"),
    ("lora_adapter", r"^# Run: .* --lora-merge-cache "),
    ("raw_pytorch", r"^# Run: mergekit-pytorch "),
    ("two_stage", r"^# Run: mergekit-multi "),
    ("llama_3_8b", r"^base_model: meta-llama/Meta-Llama-3-8B$"),
    ("llama_2_13b", r"^base_model: meta-llama/Llama-2-13b-hf$"),
    ("mistral_7b", r"^base_model: mistralai/Mistral-7B-v0.1$"),
    ("qwen3_4b", r"^base_model: Qwen/Qwen3-4B-Instruct-2507$"),
]
RECIPES = [name for name, _ in KINDS if re.search(r"_\d+b$", name)]


@dataclass(frozen=True)
class Merged:
    """The result of an example's command."""

    example: Example
    stand_ins: StandIns
    directory: Path

    @property
    def out(self) -> Path:
        return self.directory / "merged"

    @property
    def config(self) -> dict[str, Any]:
        """The example's last document, with the names that the example has."""
        return self.example.documents[-1]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return checkpoints.load_tensors(self.out)

    def inputs(self, reference: str) -> dict[str, Tensor]:
        """Read what mergekit read for a model reference of `config`."""
        model, _, adapter = reference.partition("+")
        if adapter:
            (path,) = (self.directory / "lora-cache").glob(f"*{Path(adapter).name}*")
        elif any(model == d.get("name") for d in self.example.documents):
            path = self.directory / "stages" / model
        else:
            path = self.stand_ins.path(model)
        dtype = dtype_from_name(self.config["dtype"])
        return {
            name: t.to(dtype) if t.is_floating_point() else t
            for name, t in checkpoints.load_tensors(path).items()
        }


def parameter_mappings(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping under a key `parameters`, at any depth."""
    if isinstance(node, list):
        for item in node:
            yield from parameter_mappings(item)
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "parameters":
                yield value
            yield from parameter_mappings(value)


def resolve(setting: Any, tensor: str, depth: float) -> Any:
    """Resolve the filters and the gradient of one parameter for one tensor."""
    if isinstance(setting, list) and isinstance(setting[0], dict):
        setting = next(r["value"] for r in setting if r.get("filter", "") in tensor)
    if isinstance(setting, list):
        return float(np.interp(depth, np.linspace(0, 1, len(setting)), setting))
    return setting


@pytest.fixture(params=EXAMPLES, ids=lambda file: file.stem)
def example(request: pytest.FixtureRequest) -> Example:
    return Example(request.param)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda file: file.stem)
def merged(
    request: pytest.FixtureRequest,
    stand_ins: StandIns,
    tmp_path_factory: pytest.TempPathFactory,
) -> Merged:
    """Run an example's command, where its models are the stand-ins."""
    example = Example(request.param)
    directory = tmp_path_factory.mktemp(example.file.stem)
    stages = [d["name"] for d in example.documents if "name" in d]

    def change(reference: str) -> str:
        return reference if reference in stages else stand_ins.reference(reference)

    config = yaml.safe_dump_all(with_references(example.documents, change))
    (directory / example.file.name).write_text(config, encoding="utf-8")
    program, *arguments = example.command("mergekit-")
    result = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return Merged(example, stand_ins, directory)


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


def test_output_loads(merged: Merged) -> None:
    """transformers loads the merged model whole, with the tokenizer beside it."""
    if merged.example.file.stem == "raw_pytorch":
        assert merged.tensors.keys() == merged.inputs(VIT).keys()
        return
    _, report = transformers.AutoModelForCausalLM.from_pretrained(
        merged.out, output_loading_info=True
    )
    assert not any(report.values()), report
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged.out)
    config = transformers.AutoConfig.from_pretrained(merged.out)
    rows = merged.tensors["model.embed_tokens.weight"].shape[0]
    assert len(tokenizer) <= config.vocab_size == rows
    if "tokenizer" in merged.config:
        assert len(tokenizer) == rows


def test_output_is_a_merge(merged: Merged) -> None:
    """Tensors are finite, of the dtype asked for, and not the base's."""
    base = merged.inputs(merged.config["base_model"])
    dtype = dtype_from_name(merged.config.get("out_dtype", merged.config["dtype"]))
    assert base.keys() == merged.tensors.keys()
    for name, tensor in merged.tensors.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, base[name])
            continue
        assert tensor.dtype == dtype
        assert torch.isfinite(tensor).all()
        if tensor.dim() > 1:
            assert not torch.equal(tensor, base[name].to(dtype)), name


def test_card(merged: Merged) -> None:
    """The merged model says what made it, and carries its config."""
    if merged.example.file.stem == "raw_pytorch":
        # mergekit-pytorch writes tensors and nothing else.
        assert not list(merged.out.glob("*.md"))
        return
    spec = merge_methods.get(merged.config["merge_method"]).spec
    assert f"[{spec.pretty_name}](" in (merged.out / "README.md").read_text()
    written = yaml.safe_load((merged.out / "mergekit_config.yml").read_text())
    assert written["merge_method"] == merged.config["merge_method"]


def test_filters_match(merged: Merged) -> None:
    """A filter that no tensor's name contains would be ignored without a word."""
    for mapping in parameter_mappings(merged.config):
        for setting in mapping.values():
            rules = setting if isinstance(setting, list) else []
            for wanted in (r["filter"] for r in rules if "filter" in r):
                assert any(wanted in name for name in merged.tensors), wanted


def test_vocabularies_are_aligned_where_they_differ(merged: Merged) -> None:
    """A tokenizer is set for just those examples whose models differ in rows."""
    models = [
        merged.config["base_model"],
        *(e["model"] for e in merged.config["models"]),
    ]
    embeddings = [merged.inputs(m).get("model.embed_tokens.weight") for m in models]
    heights = {len(rows) for rows in embeddings if rows is not None}
    assert (len(heights) > 1) == ("tokenizer" in merged.config)


def test_a_name_without_a_stand_in_fails(stand_ins: StandIns) -> None:
    """An example that names a model unknown here does not pass unnoticed."""
    with pytest.raises(pytest.fail.Exception, match="no stand-in for 'some/model'"):
        with_references({"models": [{"model": "some/model"}]}, stand_ins.reference)


def test_stand_ins_cover_shards_and_bfloat16(stand_ins: StandIns) -> None:
    """At least one model is sharded, and at least one is in bfloat16."""
    shards = [
        checkpoints.load_tensors(f) for f in stand_ins.path(LLAMA_3).glob("*-of-*")
    ]
    assert len(shards) > 1
    assert {t.dtype for shard in shards for t in shard.values()} == {torch.bfloat16}


def defined_options(
    config: dict[str, Any], tensor: str, depth: float
) -> dict[str, Any]:
    """Return what `oracle.merge` needs to know of a config for one tensor.

    `depth` is where the tensor's layer stands, from 0 for the first to 1 for the last.
    """
    shared = config.get("parameters", {})
    options: dict[str, Any] = {
        key: [
            resolve({**shared, **entry["parameters"]}[key], tensor, depth)
            for entry in config["models"]
        ]
        for key in ("weight", "density", "gamma")
    }
    names = {
        "lambda": "lambda_",
        "normalize": "normalize",
        "granularity": "granularity",
    }
    options |= {names[key]: shared[key] for key in names.keys() & shared.keys()}
    options["ties"] = config["merge_method"] == "breadcrumbs_ties"
    return options


def test_output_is_what_is_defined(merged: Merged) -> None:
    """Every tensor is, within rounding, what METHOD's definition gives for it."""
    base = merged.inputs(merged.config["base_model"])
    finetuned = [merged.inputs(entry["model"]) for entry in merged.config["models"]]
    layers = {name: re.search(r"layers\.(\d+)\.", name) for name in base}
    last = max((int(found[1]) for found in layers.values() if found), default=0)
    compared = 0
    for name, actual in merged.tensors.items():
        if not actual.is_floating_point() or actual.shape != base[name].shape:
            continue  # integers are not merged; a union has rows that the base has not
        found = layers[name]
        depth = int(found[1]) / last if found else 0.0
        options = defined_options(merged.config, name, depth)
        rows = slice(len(base[name])) if actual.dim() else ...
        tuned = [tensors[name][rows] for tensors in finetuned]
        if "out_dtype" in merged.config:
            exact = oracle.merge(base[name], tuned, **options)
            np.testing.assert_allclose(oracle.to_numpy(actual), exact, rtol=2**-8)
        else:
            oracle.assert_merged(actual, base[name], tuned, **options)
        compared += 1
    assert compared >= 4
