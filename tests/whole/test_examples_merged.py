"""Every example runs by its own command.

The command of an example stands in a comment of it. It is run as it stands, with the
example's model names mapped to tiny checkpoints (see `stand_ins`).
"""

import re
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
from support import checkpoints, oracle
from support.examples import EXAMPLES, Example, parameter_mappings, with_references
from support.repository import run_script
from support.stand_ins import FILES, LLAMA_3, VIT, StandIns
from torch import Tensor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("models"))


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
        if adapter in FILES:  # the full checkpoint that it was made from
            path = self.stand_ins.path(FILES[adapter][0])
        elif adapter:
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


def resolve(setting: Any, tensor: str, depth: float) -> Any:
    """Resolve the filters and the gradient of one parameter for one tensor."""
    if isinstance(setting, list) and isinstance(setting[0], dict):
        setting = next(r["value"] for r in setting if r.get("filter", "") in tensor)
    if isinstance(setting, list):
        return float(np.interp(depth, np.linspace(0, 1, len(setting)), setting))
    return setting


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
    result = run_script(program, *arguments, cwd=directory)
    assert result.returncode == 0, result.stderr[-4000:]
    return Merged(example, stand_ins, directory)


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
