"""Whole inspections through mergekit's planner, loader and executor, beside merges."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mergekit import merge_methods
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions
from support import oracle
from support.checkpoints import (
    finetune,
    finetuned_tensors,
    load_tensors,
    make_base,
    make_lora,
    save_tensors,
)
from support.merging import configuration, merge

from mergekit_breadcrumbs.measure.dry_run import choose_layers, inspect_tensors
from mergekit_breadcrumbs.measure.report import Report, TensorReport
from mergekit_breadcrumbs.measure.run import run_inspection

A = {"weight": 0.7, "density": 0.8, "gamma": 0.05}
B = {"weight": -0.4, "density": 0.5, "gamma": 0.1}
C = {"weight": 1.0, "density": 0.9, "gamma": 0.0}


def inspect(
    config: Mapping[str, Any], layers: Sequence[int] | None = None, **options: Any
) -> Report:
    """Inspect a config in this process, without its bars."""
    return inspect_tensors(
        MergeConfiguration.model_validate(dict(config)),
        MergeOptions(quiet=True, **options),
        layers,
    )


def assert_tensor(
    found: TensorReport,
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    values: Sequence[Mapping[str, float]],
    granularity: str = "tensor",
) -> None:
    """Check the report on a tensor against the oracle's mask."""
    assert found.elements == base.numel()
    assert found.shape == list(base.shape)
    assert len(found.vectors) == len(tuned)
    signs = []
    for vector, model, own in zip(found.vectors, tuned, values, strict=True):
        assert {key: getattr(vector, key) for key in own} == pytest.approx(own)
        delta = oracle.task_vector(base, model)
        mask = oracle.mask(delta, own["density"], own["gamma"], granularity)
        assert vector.counts.kept == mask.sum()
        assert vector.zero == (delta == 0).sum()
        kept = math.fsum((delta[mask] ** 2).tolist())
        assert vector.squares.kept == pytest.approx(kept, rel=1e-6, abs=0)
        whole = math.fsum((delta**2).ravel().tolist())
        assert vector.squares.total == pytest.approx(whole, rel=1e-6, abs=0)
        signs.append(np.sign(delta * mask * own["weight"]))
    changing = np.abs(signs).sum(0)
    assert found.overlapping == (changing > 1).sum()
    assert found.opposed == (np.abs(np.sum(signs, 0)) < changing).sum()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bfloat16 base of three layers, in shards, and three fine-tunings."""
    folder = tmp_path_factory.mktemp("llama")
    base = make_base(
        folder / "base", layers=3, dtype=torch.bfloat16, max_shard_size="16KB"
    )
    return [base, *(finetune(base, folder / f"m{s}", seed=s) for s in (1, 2, 3))]


@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_three_models(llama: list[Path], granularity: str, dtype: str | None) -> None:
    """Every tensor of a Llama, by the oracle, in the dtype that is merged in."""
    base, *tuned = llama
    values = [A, B, C]
    config = configuration(
        "breadcrumbs",
        base,
        dict(zip(tuned, values, strict=True)),
        {"granularity": granularity},
        **({"dtype": dtype} if dtype else {}),
    )
    report = inspect(config)
    wanted = getattr(torch, dtype or "bfloat16")
    tensors = [
        {name: tensor.to(wanted) for name, tensor in load_tensors(path).items()}
        for path in llama
    ]
    assert {tensor.name for tensor in report.tensors} == tensors[0].keys()
    assert report.models == [str(path) for path in tuned]
    assert (report.layer_count, report.unmerged) == (3, [])
    for found in report.tensors:
        assert found.granularity == granularity
        assert found.dtype == (dtype or "bfloat16")
        x, *models = (tensors_of[found.name] for tensors_of in tensors)
        assert_tensor(found, x, models, values, granularity)


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
def test_survivors_are_those_of_the_merge(
    method: str, llama: list[Path], tmp_path: Path
) -> None:
    """As many elements survive as a merge of that model alone changes."""
    base, tuned, *_ = llama
    own = {"weight": 1.0, "density": 0.6, "gamma": 0.03}
    config = configuration(method, base, {tuned: own}, dtype="float32")
    report = inspect(config)
    merged = merge(config, tmp_path / "out")
    before = load_tensors(base)
    for tensor in report.tensors:
        changed = int((merged[tensor.name] != before[tensor.name].float()).sum())
        [vector] = tensor.vectors
        assert sum(vector.histogram.kept) == changed > 0


def test_layers(llama: list[Path]) -> None:
    """Some layers alone, from the front or from the end, give the same reports."""
    base, *tuned = llama
    config = configuration("breadcrumbs", base, dict.fromkeys(tuned, A))
    whole = inspect(config)
    some = inspect(config, [-1, 0, 2])
    assert some.layers == [0, 2]
    assert some.tensors == [t for t in whole.tensors if t.layer in (0, 2)]
    assert {t.layer for t in whole.tensors} == {None, 0, 1, 2}
    assert len(some.tensors) == 2 * 9


@pytest.mark.parametrize("layer", [3, -4])
def test_layer_out_of_range(layer: int, llama: list[Path]) -> None:
    """The error says how many layers there are."""
    base, *tuned = llama
    config = configuration("breadcrumbs", base, dict.fromkeys(tuned, A))
    with pytest.raises(ValueError, match=rf"\[-3, 2\].* has 3 layers; got {layer}"):
        inspect(config, [0, layer])


@pytest.mark.parametrize(
    ("layers", "count", "message"),
    [
        ([0, 5], 2, "must be in [-2, 1], for the merged model has 2 layers; got 5"),
        ([-3], 2, "must be in [-2, 1], for the merged model has 2 layers; got -3"),
        ([1], 1, "must be in [-1, 0], for the merged model has 1 layer; got 1"),
    ],
    ids=["after the last", "before the first", "one layer"],
)
def test_what_is_said_of_a_layer(layers: list[int], count: int, message: str) -> None:
    """The range, the number of layers, and which of them is wrong."""
    with pytest.raises(ValueError, match=f"^layers {re.escape(message)}$"):
        choose_layers(layers, count)


def test_parameters_are_resolved_as_for_the_merge(llama: list[Path]) -> None:
    """Gradients over layers, filters by name, and values for one model."""
    base, a, b, _ = llama
    config = configuration(
        "breadcrumbs_ties",
        base,
        {a: {"weight": [0.0, 1.0]}, b: {"weight": 0.3}},
        {
            "density": [{"filter": "mlp", "value": 0.25}, {"value": 0.75}],
            "gamma": 0.02,
        },
    )
    for tensor in inspect(config).tensors:
        first, second = tensor.vectors
        if tensor.layer is not None:
            assert first.weight == pytest.approx(tensor.layer / 2)
        assert second.weight == 0.3
        density = 0.25 if ".mlp." in tensor.name else 0.75
        assert first.density == second.density == density
        assert tensor.vectors[0].gamma == 0.02
        if first.weight == 0:
            assert tensor.overlapping == 0, "it adds nothing"


def test_slices(llama: list[Path]) -> None:
    """Layers of the output are those that slices stack, each with a base of its own."""
    base, a, b, _ = llama

    def sources(layers: list[int], parameters: dict[Path, Any]) -> list[Any]:
        return [
            {"model": str(path), "layer_range": layers, "parameters": own}
            for path, own in parameters.items()
        ]

    config = {
        "merge_method": "breadcrumbs",
        "base_model": str(base),
        "slices": [
            {"sources": sources([1, 3], {base: {}, a: A, b: B})},
            {"base_model": str(a), "sources": sources([0, 2], {a: {}, b: C})},
        ],
    }
    report = inspect(config)
    assert report.layer_count == 4
    x, y, z = map(load_tensors, (base, a, b))
    by_name = {tensor.name: tensor for tensor in report.tensors}
    for out, (source, from_, models, values) in enumerate(
        [
            (1, x, [y, z], [A, B]),
            (2, x, [y, z], [A, B]),
            (0, y, [z], [C]),
            (1, y, [z], [C]),
        ]
    ):
        name = "model.layers.{}.mlp.up_proj.weight"
        found = by_name[name.format(out)]
        assert found.layer == out
        inputs = [tensors[name.format(source)] for tensors in (from_, *models)]
        assert_tensor(found, inputs[0], inputs[1:], values)
    last = inspect(config, [-1])
    assert {t.layer for t in last.tensors} == {3}
    assert last.models == [str(b)], "the others are not in this slice"


def test_bert(tmp_path: Path) -> None:
    """Another architecture, with a buffer of integers that is not merged."""
    ids = {"bert.embeddings.position_ids": torch.arange(64)[None]}
    base = make_base(tmp_path / "base", "bert")
    tuned = finetune(base, tmp_path / "tuned", seed=1)
    x = load_tensors(base)
    y = finetuned_tensors(x, seed=1)
    for path, tensors in ((base, x), (tuned, y)):
        save_tensors({**tensors, **ids}, path / "model.safetensors")
    report = inspect(configuration("breadcrumbs", base, {tuned: B}))
    assert report.unmerged == list(ids)
    assert {tensor.name for tensor in report.tensors} == x.keys()
    for tensor in report.tensors:
        assert_tensor(tensor, x[tensor.name], [y[tensor.name]], [B])
    roles = {tensor.role.value for tensor in report.tensors}
    assert {"embeddings", "attention q", "MLP up", "MLP down", "head"} <= roles


def test_tensors_that_models_lack(tmp_path: Path) -> None:
    """Who has a tensor is reported, and what the base alone has is not merged."""
    # Granite is Llama with optional biases.
    granite = {"model_type": "granite", "architectures": ["GraniteForCausalLM"]}
    names = [f"model.layers.{i}.self_attn.q_proj.bias" for i in (0, 1)]
    biases = {name: torch.linspace(-1, 1, 32) for name in names}
    base = make_base(tmp_path / "base")
    tuned = [finetune(base, tmp_path / f"m{s}", seed=s) for s in (1, 2)]
    for path, own in zip((base, *tuned), (names, names[:1], []), strict=True):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | granite))
        tensors = load_tensors(path) | {name: biases[name] for name in own}
        save_tensors(tensors, path / "model.safetensors")
    report = inspect(configuration("breadcrumbs", base, dict.fromkeys(tuned, A)))
    assert report.unmerged == names[1:]
    by_name = {tensor.name: tensor for tensor in report.tensors}
    assert by_name[names[0]].absent == [str(tuned[1])]
    assert [v.model for v in by_name[names[0]].vectors] == [str(tuned[0])]
    assert not any(t.absent for name, t in by_name.items() if name != names[0])


# peft asks transformers 5 for a name that it is giving up.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora(tmp_path: Path) -> None:
    """The product of an adapter's factors is inspected, as it is merged."""
    base = make_base(tmp_path / "base")
    lora = make_lora(base, tmp_path / "lora", seed=1)
    config = configuration("breadcrumbs", base, {}, {**A, "density": 1, "gamma": 0})
    config["models"] = [{"model": f"{base}+{lora}"}]
    report = inspect(config, lora_merge_cache=str(tmp_path / "cache"))
    assert report.models == [f"{base}+{lora}"]
    for tensor in report.tensors:
        changed = tensor.name.endswith(("q_proj.weight", "down_proj.weight"))
        assert (tensor.vectors[0].squares.total > 0) == changed


def test_tokenizers(tmp_path: Path) -> None:
    """Vocabularies are aligned as for the merge before anything is counted."""
    base = make_base(tmp_path / "base")
    tuned = finetune(
        base, tmp_path / "tuned", seed=1, added_rows=2, added_tokens=["one", "two"]
    )
    config = configuration(
        "breadcrumbs", base, {tuned: A}, tokenizer={"source": "union"}
    )
    shapes = {t.name: t.shape for t in inspect(config).tensors}
    assert shapes["model.embed_tokens.weight"] == [66, 32]


def test_leaves_no_trace(llama: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    """No file, no method in mergekit's registry, no change to the config."""
    monkeypatch.chdir(tmp_path)
    base, *tuned = llama
    before = merge_methods.registered_methods()
    raw = configuration("breadcrumbs", base, dict.fromkeys(tuned, A))
    config = MergeConfiguration.model_validate(raw)
    inspect_tensors(config, MergeOptions(quiet=True))
    assert config == MergeConfiguration.model_validate(raw)
    broken = load_tensors(tuned[0])
    broken["model.norm.weight"][0] = torch.nan
    bad = finetune(base, tmp_path / "bad", seed=9)
    save_tensors(broken, bad / "model.safetensors")
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"must be finite; 1 of 32 .* model\.norm"):
        inspect(configuration("breadcrumbs", base, {bad: A}))
    assert merge_methods.registered_methods() == before
    assert sorted(tmp_path.rglob("*")) == files


def test_another_method_is_refused(llama: list[Path]) -> None:
    """What is shown would not be what is merged."""
    base, *tuned = llama
    config = configuration("ties", base, dict.fromkeys(tuned, A))
    with pytest.raises(ValueError, match=r"merge_method must be .*; got ties"):
        inspect(config)


@pytest.mark.slow
def test_bars_go_to_standard_error(
    llama: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress is mergekit's own bar; the tables and a picture come after it."""
    base, *tuned = llama
    raw = configuration("breadcrumbs", base, dict.fromkeys(tuned, A))
    config = MergeConfiguration.model_validate(raw)
    picture = tmp_path / "picture.png"
    run_inspection(config, MergeOptions(), layers=[0], plot_file=picture)
    printed = capsys.readouterr()
    assert "Executing graph: 100%" in printed.err
    assert "Executing" not in printed.out
    assert "9 tensors of layer 0 alone" in printed.out
    assert picture.stat().st_size > 10_000
