"""Tensors that get lost, codes in place of weights, heads, and rival weights."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from mergekit.architecture.auto import infer_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from support.architectures import TEXT
from support.checked_configs import said

from mergekit_breadcrumbs.host import planning

MODELS = """\
merge_method: breadcrumbs
base_model: ./base
models:
  - {model: ./a, parameters: {weight: 0.6}}
  - {model: ./b, parameters: {weight: 0.4}}
parameters: {density: 0.7, gamma: 0.05}
dtype: float32
"""
FIRST_LAYER = """\
merge_method: breadcrumbs
base_model: ./base
slices:
  - sources:
      - {model: ./base, layer_range: [0, 1]}
      - {model: ./a, layer_range: [0, 1], parameters: {weight: 0.6}}
parameters: {density: 0.7, gamma: 0.05}
"""
VIT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
Tensors = dict[str, torch.Tensor]
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
PROJECTION = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _forget()


def _forget() -> None:
    """mergekit keeps what it has read, by path, for the life of a process."""
    LoaderCache().loaders.clear()
    infer_architecture_info.cache_clear()


def _models(architecture: str = "LlamaForCausalLM", **settings: Any) -> None:
    """Write base, a and b, of tiny sizes unless the settings say otherwise."""
    sizes = VIT if architecture.startswith("ViT") else TEXT
    model_class = getattr(transformers, architecture)
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        model_class(model_class.config_class(**{**sizes, **settings})).save_pretrained(
            name
        )


def _change(name: str, change: Callable[[Tensors], Tensors]) -> None:
    file = Path(name, "model.safetensors")
    tensors = {k: v.contiguous() for k, v in change(load_file(file)).items()}
    save_file(tensors, file, {"format": "pt"})


def _set(name: str, **values: Any) -> None:
    file = Path(name, "config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def _without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: v for k, v in tensors.items() if k not in names}


def _new(text: str = MODELS) -> list[str]:
    return [line for line in said(text) if " BC702: " not in line]


LOST: dict[str, tuple[str, dict[str, Any], str]] = {
    "biases": (
        "LlamaForCausalLM",
        {"attention_bias": True, "mlp_bias": True},
        "14 tensors (256 elements, 3.66 %) that the base has:"
        " model.layers.0.mlp.down_proj.bias and 13 more",
    ),
    "biases of the attention": (
        "Qwen3ForCausalLM",
        {"attention_bias": True},
        "8 tensors (96 elements,",
    ),
    "experts": (
        "DeepseekV3ForCausalLM",
        {
            "num_key_value_heads": 2,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
        },
        "12 tensors (1536 elements,",
    ),
    "what is saved under another name": (
        "ViTForImageClassification",
        {},
        "32 tensors (4448 elements, 31.7 %) that the base has:"
        " vit.encoder.layer.0.attention.attention.key.bias and 31 more",
    ),
}


@pytest.mark.parametrize("reason", LOST)
def test_lost_tensors(reason: str) -> None:
    """What no plan reads is an error that says how much of the base that is."""
    architecture, settings, text = LOST[reason]
    _models(architecture, **settings)
    [line] = _new()
    wanted = f"2 error BC504: base_model: the merged model will lack {text}"
    assert line.startswith(wanted)


def test_lost_tensors_of_some_layers() -> None:
    """Layers that no slice takes are no loss; what is lost of the others is."""
    _models(attention_bias=True)
    line, _ = sorted(_new(FIRST_LAYER))
    assert "will lack 4 tensors" in line
    assert "model.layers.0.self_attn.k_proj.bias and 3 more" in line
    _models()
    _forget()
    assert [line.split()[2] for line in _new(FIRST_LAYER)] == ["BC403:"]


def _add(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.ones(shape)}


BESIDE: dict[str, tuple[str, Callable[[Tensors], Tensors], list[str]]] = {
    "buffers of old files, in the base": (
        "base",
        _add("model.layers.0.self_attn.rotary_emb.inv_freq", 4),
        [],
    ),
    "buffers of old files": (
        "a",
        _add("model.layers.0.self_attn.rotary_emb.inv_freq", 4),
        [],
    ),
    "more layers than transformers knows": (
        "base",
        _add("model.layers.2.eh_proj.weight", 16, 32),
        ["2 warning BC505: base_model: the merged model will lack 1 tensor (512 "],
    ),
    "a value head": (
        "a",
        _add("v_head.summary.weight", 1, 16),
        ["4 warning BC508: models[0].model: v_head.summary.weight: the base has no"],
    ),
    "a missing norm": (
        "a",
        _without("model.norm.weight"),
        ["4 error BC501: models[0].model: its weights lack model.norm.weight"],
    ),
}


@pytest.mark.parametrize("reason", BESIDE)
def test_tensors_beside_the_plan(reason: str) -> None:
    """What transformers needs is told from what it makes anew, and from the rest."""
    name, change, expected = BESIDE[reason]
    _models()
    _change(name, change)
    found = _new()
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


def test_missing_in_a_model_that_is_inferred() -> None:
    """Where mergekit takes every weight for optional, a loss is still told."""
    _models("SmolLM3ForCausalLM", tie_word_embeddings=False)
    _change("a", _without(PROJECTION))
    [line] = _new()
    assert line.startswith(
        f"4 warning BC507: models[0].model: its weights lack {PROJECTION}: there the"
    )


HEADS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "lost, Llama": (
        "LlamaForCausalLM",
        {"tie_word_embeddings": False},
        "lost",
        f"error BC509: models[0].model: its weights lack {HEAD} (it would take"
        f" {EMBEDDINGS}), and its config.json does not tie the two",
    ),
    "lost, Qwen2": (
        "Qwen2ForCausalLM",
        {"tie_word_embeddings": False},
        "lost",
        "error BC509: ",
    ),
    "lost, Phi-3, which mergekit never ties": (
        "Phi3ForCausalLM",
        {"tie_word_embeddings": False},
        "lost",
        f"error BC501: models[0].model: its weights lack {HEAD}",
    ),
    "own, Llama": (
        "LlamaForCausalLM",
        {"tie_word_embeddings": True},
        "own",
        f"warning BC510: models[0].model: has a head of its own ({HEAD}), the base",
    ),
    "own, Qwen2": (
        "Qwen2ForCausalLM",
        {"tie_word_embeddings": True},
        "own",
        "warning BC510: ",
    ),
    "own, SmolLM3": (
        "SmolLM3ForCausalLM",
        {"tie_word_embeddings": True},
        "own",
        f"error BC506: base_model: its weights lack {HEAD}, which another model has",
    ),
    "own, Gemma, whose head mergekit does not know": (
        "GemmaForCausalLM",
        {"tie_word_embeddings": True},
        "own",
        f"warning BC508: models[0].model: {HEAD}: the base has no such tensor",
    ),
}


@pytest.mark.parametrize("reason", HEADS)
def test_heads(reason: str) -> None:
    """A head that is missing, or that only one model has, is told."""
    architecture, settings, what, expected = HEADS[reason]
    _models(architecture, **settings)
    if what == "lost":
        _change("a", _without(HEAD))
    else:
        _change("a", lambda t: t | {HEAD: t[EMBEDDINGS] + 0.1})
        _set("a", tie_word_embeddings=False)
    [line] = _new()
    assert line.partition(" ")[2].startswith(expected)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GemmaForCausalLM"])
def test_a_tied_head_that_is_in_the_file(architecture: str) -> None:
    """A copy of the embeddings, as some trainers save it, is no head of its own."""
    _models(architecture, tie_word_embeddings=True)
    for name in ("base", "a"):
        _change(name, lambda t: t | {HEAD: t[EMBEDDINGS].clone()})
        assert _new() == []
        _forget()


def _as(dtype: torch.dtype) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {PROJECTION: torch.ones(16, 16).to(dtype)}


def _gptq(tensors: Tensors) -> Tensors:
    return {k.replace("q_proj.weight", "q_proj.qweight"): v for k, v in tensors.items()}


CODES = [
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.bool,
    torch.complex64,
]


@pytest.mark.parametrize("model", ["base", "a"])
@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_codes_in_place_of_weights(dtype: torch.dtype, model: str) -> None:
    """A tensor of anything but floats is named, whatever config.json says."""
    _models()
    _change(model, _as(dtype))
    [line] = _new()
    place = "2 error BC314: base_model" if model == "base" else "4 error BC314: models["
    assert line.startswith(place)
    assert f"{PROJECTION} holds " in line
    assert "merge the 16-bit weights" in line


def test_codes_under_names_of_their_own() -> None:
    """Blocks of codes that stand for a tensor are told, in whatever model."""
    _models()
    blocks = PROJECTION.replace("weight", "weight_blocks")
    for name in ("base", "a"):
        _change(name, lambda t: t | {blocks: torch.ones(16, 8, dtype=torch.uint8)})
    first, second = _new()
    assert f"2 error BC314: base_model: is quantised (U8): {blocks} holds U8" in first
    assert "4 error BC314: models[0].model: is quantised (U8)" in second


def test_codes_in_a_pickle() -> None:
    """A pickled model's dtypes are looked at as well."""
    _models()
    tensors = _as(torch.int8)(load_file("a/model.safetensors"))
    Path("a/model.safetensors").unlink()
    torch.save(tensors, "a/pytorch_model.bin")
    [line] = _new()
    assert f"is quantised (int8): {PROJECTION} holds int8" in line


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
GPTQ = {"quant_method": "gptq", "bits": 4}
CONFIGS: dict[str, tuple[str, dict[str, Any], Callable[[Tensors], Tensors], str]] = {
    "fp8": ("a", FP8, _as(torch.float8_e4m3fn), "is quantised (fp8): model.layers"),
    "gptq": ("a", GPTQ, _gptq, "is quantised (gptq): merge the 16-bit weights"),
    "the base's config alone": (
        "base",
        FP8,
        lambda tensors: tensors,
        "its config.json says that it is quantised (fp8), its weights are not",
    ),
}


@pytest.mark.parametrize("reason", CONFIGS)
def test_quantisation_that_a_config_tells_of(reason: str) -> None:
    """The method is named; and the merged model would have the base's config."""
    model, settings, change, expected = CONFIGS[reason]
    _models()
    _change(model, change)
    _set(model, quantization_config=settings)
    [line] = _new()
    assert "error BC314: " in line
    assert expected in line


def test_whole_numbers_that_are_no_codes() -> None:
    """Counters, and a stale setting in a fine-tuning's config, are no problem."""
    _models()
    for name in ("base", "a", "b"):
        _change(name, lambda t: t | {PROJECTION: t[PROJECTION].double()})
    _set("a", quantization_config=FP8)
    assert _new() == []


def test_two_sets_of_weights() -> None:
    """An index beside a single file of the same kind is an error."""
    _models()
    model = transformers.AutoModelForCausalLM.from_pretrained("b")
    model.save_pretrained("sharded", max_shard_size="20KB")
    for file in Path("sharded").glob("model*"):
        file.rename(Path("b", file.name))
    [line] = _new()
    assert line.startswith(
        "5 error BC315: models[1].model: has two sets of weights: mergekit goes by"
        " model.safetensors.index.json, transformers loads model.safetensors"
    )


def _warnings(text: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    _forget()
    config = MergeConfiguration.model_validate(yaml.safe_load(text))
    with caplog.at_level(logging.WARNING):
        run_merge(config, "out", MergeOptions(quiet=True, copy_tokenizer=False))
    lines = [r.getMessage() for r in caplog.records if "will lack" in r.getMessage()]
    assert all(record.levelno < logging.ERROR for record in caplog.records)
    return lines


def test_said_while_merging(caplog: pytest.LogCaptureFixture) -> None:
    """A merge that was not checked says once what it loses."""
    _models(attention_bias=True)
    [line] = _warnings(MODELS, caplog)
    assert line.startswith("the merged model will lack 8 tensors (96 elements, ")
    assert line.endswith(
        "(mergekit-breadcrumbs explain BC504 says why, and what to do)"
    )
    head, slices, rest = re.split(
        "(?<=slices:\n)|(?=parameters: {density)", FIRST_LAYER
    )
    [line] = _warnings(f"{head}{slices}{slices}{rest}", caplog)
    assert "will lack 4 tensors" in line


def test_nothing_said_while_merging(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right merge says nothing, and no fault of what is said stops one."""
    _models()
    assert _warnings(MODELS, caplog) == []

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(planning, "find_losses", fail)
    assert _warnings(MODELS, caplog) == []
    assert Path("out", "config.json").exists()
