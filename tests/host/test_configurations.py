"""What mergekit's configs can say besides values: every merge against the oracle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mergekit.graph import Executor
from mergekit.options import MergeOptions
from mergekit.scripts.merge_raw_pytorch import RawPyTorchMergeConfig, plan_flat_merge
from support.checkpoints import (
    SHARDED,
    finetune,
    finetuned_tensors,
    load_tensors,
    make_base,
    make_lora,
    save_tensors,
)
from support.merging import Tensors, assert_model_merged, configuration, merge

METHODS = ("breadcrumbs", "breadcrumbs_ties")
A, B = (
    {"weight": 0.75, "density": 0.5, "gamma": 0.02},
    {"weight": -0.5, "density": 0.8, "gamma": 0.0},
)
VALUES = {key: [A[key], B[key]] for key in A}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 Llama in several files."""
    out_dir = tmp_path_factory.mktemp("base")
    return make_base(out_dir, dtype=torch.bfloat16, max_shard_size=SHARDED)


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two fine-tunings of it."""
    root = tmp_path_factory.mktemp("tuned")
    return finetune(base, root / "a", seed=1), finetune(base, root / "b", seed=2)


def _pair(tuned: tuple[Path, Path]) -> dict[Path, dict[str, float]]:
    return dict(zip(tuned, (A, B), strict=True))


def _assert_same(actual: Tensors, expected: Tensors) -> None:
    assert actual.keys() == expected.keys()
    assert [n for n in actual if not torch.equal(actual[n], expected[n])] == []


def _copy(
    source: Path,
    out_dir: Path,
    changed: Mapping[str, torch.Tensor | None],
    **config: Any,
) -> Path:
    """Write a checkpoint with some tensors changed, added or (None) left out."""
    out_dir.mkdir()
    for file in source.glob("*.json"):
        if "index" not in file.name:
            (out_dir / file.name).write_bytes(file.read_bytes())
    path = out_dir / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    tensors = {**load_tensors(source), **changed}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_tensors(kept, out_dir / "model.safetensors")
    return out_dir


@pytest.mark.parametrize("method", METHODS)
def test_slices(
    method: str, base: Path, tuned: tuple[Path, Path], tmp_path: Path
) -> None:
    """Layers can be stacked anew, each slice with parameters and a base of its own."""
    a, b = tuned

    def sources(layers: list[int], parameters: dict[Path, Any]) -> list[Any]:
        return [
            {"model": str(path), "layer_range": layers, "parameters": own}
            for path, own in parameters.items()
        ]

    slices = [
        {"sources": sources([1, 2], {base: {}, a: A, b: B})},
        {
            "base_model": str(a),
            "sources": sources([0, 1], {a: {}, b: {"weight": 2.0}}),
            "parameters": {"density": 0.25},
        },
        {"sources": sources([0, 2], {base: {}, a: A, b: B})},
    ]
    config = {
        "merge_method": method,
        "base_model": str(base),
        "slices": slices,
        "parameters": {"lambda": 0.5},
    }
    merged = merge(config, tmp_path / "out")
    x, y, z = map(load_tensors, (base, a, b))

    def check(output: str, layer: str, base: Tensors, *models: Tensors, **v: Any):
        assert_model_merged(
            _layer(merged, output),
            _layer(base, layer),
            [_layer(model, layer) for model in models],
            lambda_=0.5,
            ties=method == METHODS[1],
            **v,
        )

    check("layers.0.", "layers.1.", x, y, z, **VALUES)
    check("layers.1.", "layers.0.", y, z, weight=[2.0], density=[0.25], gamma=[0.01])
    check("layers.2.", "layers.0.", x, y, z, **VALUES)
    check("layers.3.", "layers.1.", x, y, z, **VALUES)


def _layer(tensors: Tensors, prefix: str) -> Tensors:
    return {n.split(prefix)[1]: t for n, t in tensors.items() if prefix in n}


@pytest.mark.parametrize("method", METHODS)
def test_rows(
    method: str, base: Path, tuned: tuple[Path, Path], tmp_path: Path
) -> None:
    """`granularity: row` masks each row of every tensor by itself."""
    config = configuration(method, base, _pair(tuned), {"granularity": "row"})
    merged = merge(config, tmp_path / "out")
    inputs = [load_tensors(path) for path in (base, *tuned)]
    options = {"granularity": "row", "ties": method == METHODS[1]}
    assert_model_merged(merged, inputs[0], inputs[1:], **VALUES, **options)


def test_modules(base: Path, tuned: tuple[Path, Path], tmp_path: Path) -> None:
    """Naming the module, as a multimodal model has to, gives the same merge."""
    config = configuration("breadcrumbs", base, _pair(tuned))
    expected = merge(config, tmp_path / "models")
    config["modules"] = {"default": {"models": config.pop("models")}}
    _assert_same(merge(config, tmp_path / "modules"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_base_in_the_list_has_no_effect(
    method: str, base: Path, tuned: tuple[Path, Path], tmp_path: Path
) -> None:
    """Published configs list the base with a weight; its task vector is zero."""
    shared = {"normalize": True, "rescale": True}
    config = configuration(method, base, _pair(tuned), shared)
    expected = merge(config, tmp_path / "without")
    for index, own in enumerate(({}, {"weight": 9.0, "density": 0.1, "gamma": 0.5})):
        a, b = _pair(tuned).items()
        listed = dict([a, (base, own), b])
        config = configuration(method, base, listed, shared)
        _assert_same(merge(config, tmp_path / f"with{index}"), expected)


DTYPES = [
    # Files of base and of fine-tunings, `dtype`, the dtype merged in, `out_dtype`.
    ("bfloat16", "bfloat16", None, "bfloat16", None),
    ("bfloat16", "bfloat16", "float32", "float32", None),
    ("bfloat16", "bfloat16", "float32", "float32", "bfloat16"),
    ("float16", "float16", None, "float16", "float32"),
    ("float32", "float32", "bfloat16", "bfloat16", None),
    ("float32", "float32", "float64", "float64", "float16"),
    ("bfloat16", "float32", None, "float32", None),
    ("float16", "bfloat16", None, "float32", "float16"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("of_base", "of_tuned", "asked", "used", "out"), DTYPES)
def test_dtypes(
    of_base: str,
    of_tuned: str,
    asked: str | None,
    used: str,
    out: str | None,
    base: Path,
    tuned: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    """`dtype` and promotion come before the merge, `out_dtype` after it."""
    paths = [
        _cast(path, tmp_path / path.name, getattr(torch, dtype))
        for path, dtype in zip(
            (base, *tuned), (of_base, of_tuned, of_tuned), strict=True
        )
    ]
    config = configuration("breadcrumbs", paths[0], _pair((paths[1], paths[2])))
    config["dtype"] = asked
    merged = merge(config, tmp_path / "out")
    inputs = [
        {n: t.to(getattr(torch, used)) for n, t in load_tensors(path).items()}
        for path in paths
    ]
    assert_model_merged(merged, inputs[0], inputs[1:], **VALUES)
    if out:
        cast = merge({**config, "out_dtype": out}, tmp_path / "cast")
        dtype = getattr(torch, out)
        _assert_same(cast, {n: t.to(dtype) for n, t in merged.items()})


def _cast(source: Path, out_dir: Path, dtype: torch.dtype) -> Path:
    changed = {n: t.to(dtype) for n, t in load_tensors(source).items()}
    return _copy(source, out_dir, changed)


TOKENIZERS = [{"tokenizer": {"source": "union"}}, {"tokenizer_source": "union"}]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("setting", TOKENIZERS, ids=lambda setting: next(iter(setting)))
def test_tokenizer_union(
    setting: dict[str, Any], method: str, base: Path, tuned: Any, tmp_path: Path
) -> None:
    """A token that one model added is taken from it; all other rows are merged."""
    a, _ = tuned
    new = ["<|im_start|>", "<|im_end|>"]
    chat = finetune(
        base, tmp_path / "chat", seed=3, added_rows=len(new), added_tokens=new
    )
    config = configuration(method, base, {a: A, chat: B}, **setting)
    merged = merge(config, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids(new) == [64, 65]
    inputs = [load_tensors(path) for path in (base, a, chat)]
    for name in (EMBEDDING, HEAD):
        for tensors in inputs[:2]:
            tensors[name] = torch.cat([tensors[name], inputs[2][name][64:]])
    ties = method == METHODS[1]
    assert_model_merged(merged, inputs[0], inputs[1:], **VALUES, ties=ties)
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 66


def test_tokenizer_base(base: Path, tuned: tuple[Path, Path], tmp_path: Path) -> None:
    """With the base's tokenizer the rows that a fine-tuning added are left out."""
    a, _ = tuned
    chat = finetune(
        base, tmp_path / "chat", seed=3, added_rows=2, added_tokens=["<x>", "<y>"]
    )
    keys = {"tokenizer": {"source": "base"}}
    config = configuration("breadcrumbs", base, {a: A, chat: B}, **keys)
    merged = merge(config, tmp_path / "out")
    inputs = [load_tensors(path) for path in (base, a, chat)]
    for name in (EMBEDDING, HEAD):
        inputs[2][name] = inputs[2][name][:64]
    assert_model_merged(merged, inputs[0], inputs[1:], **VALUES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora(tmp_path: Path) -> None:
    """An adapter's task vector is the product of its factors, not the factors."""
    base = make_base(tmp_path / "base")
    a = finetune(base, tmp_path / "a", seed=1)
    lora = make_lora(base, tmp_path / "lora", seed=2)
    config = configuration("breadcrumbs", base, {a: A, Path(f"{base}+{lora}"): B})
    cache = tmp_path / "cache"
    merged = merge(config, tmp_path / "out", lora_merge_cache=str(cache))
    factors = load_tensors(lora / "adapter_model.safetensors")
    (folder,) = cache.iterdir()
    adapted, plain = load_tensors(folder), load_tensors(base)
    assert_model_merged(merged, plain, [load_tensors(a), adapted], **VALUES)
    name = "model.layers.1.self_attn.q_proj"
    up = factors[f"base_model.model.{name}.lora_B.weight"]
    down = factors[f"base_model.model.{name}.lora_A.weight"]
    name += ".weight"
    torch.testing.assert_close(adapted[name] - plain[name], up @ down)


def test_tied_and_untied_heads(tmp_path: Path) -> None:
    """Where a model has no head of its own, its embedding stands for it."""
    base = make_base(tmp_path / "base", tied=True)
    a = finetune(base, tmp_path / "a", seed=1)
    b = finetune(base, tmp_path / "b", seed=2)
    assert HEAD not in load_tensors(base)
    merged = merge(configuration("breadcrumbs", base, {a: A, b: B}), tmp_path / "tied")
    inputs = [load_tensors(path) for path in (base, a, b)]
    assert_model_merged(merged, inputs[0], inputs[1:], **VALUES)

    own = finetuned_tensors({HEAD: inputs[0][EMBEDDING]}, seed=5)
    untied = _copy(b, tmp_path / "untied", own, tie_word_embeddings=False)
    config = configuration("breadcrumbs", base, {a: A, untied: B})
    merged = merge(config, tmp_path / "out")
    inputs = [load_tensors(path) for path in (base, a, untied)]
    for tensors in inputs[:2]:
        tensors[HEAD] = tensors[EMBEDDING]
    assert_model_merged(merged, inputs[0], inputs[1:], **VALUES)


@pytest.mark.parametrize("method", METHODS)
def test_optional_tensors(method: str, tmp_path: Path) -> None:
    """A model without an optional tensor counts neither in its sum nor its divisor."""
    # Granite is Llama with optional biases.
    granite = {"model_type": "granite", "architectures": ["GraniteForCausalLM"]}
    llama = make_base(tmp_path / "llama")
    names = [f"model.layers.{i}.self_attn.q_proj.bias" for i in (0, 1)]
    some = {name: torch.linspace(-1, 1, 32) for name in names}
    base = _copy(llama, tmp_path / "base", some, **granite)
    a = _copy(base, tmp_path / "a", finetuned_tensors(load_tensors(base), seed=1))
    left_out = dict.fromkeys(names)
    b = _copy(
        base,
        tmp_path / "b",
        {**finetuned_tensors(load_tensors(base), seed=2), **left_out},
    )
    c = _copy(base, tmp_path / "c", dict.fromkeys(names[1:]))
    config = configuration(method, base, {a: A, b: B, c: A}, {"normalize": True})
    merged = merge(config, tmp_path / "out")
    x, y, z, w = map(load_tensors, (base, a, b, c))
    options = {"normalize": True, "ties": method == METHODS[1]}
    of_all = {key: [A[key], B[key], A[key]] for key in A}
    biases = {name: merged.pop(name) for name in names}
    common = {name: tensor for name, tensor in x.items() if name not in names}
    assert_model_merged(merged, common, [y, z, w], **of_all, **options)
    for name, models in ((names[0], [y, w]), (names[1], [y])):
        values = {key: [A[key]] * len(models) for key in A}
        one = {name: biases[name]}
        assert_model_merged(one, {name: x[name]}, models, **values, **options)


def test_tensor_in_the_base_alone(tmp_path: Path) -> None:
    """What no fine-tuning has is the base's, bit for bit."""
    granite = {"model_type": "granite", "architectures": ["GraniteForCausalLM"]}
    llama = make_base(tmp_path / "llama", dtype=torch.bfloat16)
    name = "model.layers.0.self_attn.q_proj.bias"
    bias = torch.linspace(-1, 1, 32).bfloat16()
    base = _copy(llama, tmp_path / "base", {name: bias}, **granite)
    a = _copy(base, tmp_path / "a", {name: None})
    merged = merge(configuration("breadcrumbs", base, {a: A}), tmp_path / "out")
    assert torch.equal(merged[name], bias)


def test_integer_buffers(tmp_path: Path) -> None:
    """A buffer on which all models agree is copied; beside it all floats are merged."""
    ids = {"bert.embeddings.position_ids": torch.arange(64)[None]}
    bert = make_base(tmp_path / "bert", "bert")
    base = _copy(bert, tmp_path / "base", ids)
    a = _copy(base, tmp_path / "a", finetuned_tensors(load_tensors(base), seed=1))
    merged = merge(configuration("breadcrumbs", base, {a: A}), tmp_path / "out")
    x, y = load_tensors(base), load_tensors(a)
    (name,) = ids
    assert torch.equal(merged[name], ids[name])
    for tensors in (merged, x, y):
        del tensors[name]
    assert_model_merged(merged, x, [y], **{key: [A[key]] for key in A})


def test_raw_pytorch_union(tmp_path: Path) -> None:
    """`mergekit-pytorch --tensor-union` merges a tensor of the models that have it."""
    zeros = {"w": torch.zeros(40, 5), "v": torch.zeros(300)}
    x = {**finetuned_tensors(zeros, seed=0, scale=1.0), "steps": torch.arange(3)}
    tuned = [finetuned_tensors(x, seed=1), finetuned_tensors(x, seed=2)]
    del tuned[0]["v"]
    paths = [
        save_tensors(tensors, tmp_path / f"{i}.{suffix}")
        for i, (tensors, suffix) in enumerate(
            zip((x, *tuned), ("safetensors", "bin", "safetensors"), strict=True)
        )
    ]
    config = RawPyTorchMergeConfig.model_validate(
        configuration("breadcrumbs", paths[0], _pair((paths[1], paths[2])))
    )
    out = tmp_path / "out"
    tasks = plan_flat_merge(config, str(out), True, False, MergeOptions())
    Executor(tasks).execute()
    merged = load_tensors(out)
    assert torch.equal(merged.pop("steps"), x.pop("steps"))
    v = {"v": merged.pop("v")}
    assert_model_merged(v, {"v": x.pop("v")}, tuned[1:], **{k: [B[k]] for k in B})
    assert_model_merged(merged, x, tuned, **VALUES)


OPTIONS: dict[str, dict[str, Any]] = {
    "small shards": {"out_shard_size": 10_000},
    "asynchronous writes": {"async_write": True, "out_shard_size": 10_000},
    "pickled": {"safe_serialization": False},
    "cloned": {"clone_tensors": True},
    "lazy unpickling": {"lazy_unpickle": True},
    "low CPU memory": {"low_cpu_memory": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_change_no_bit(
    name: str, base: Path, tuned: tuple[Path, Path], tmp_path: Path
) -> None:
    """How a merge is read and written has no say in what it computes."""
    config = configuration("breadcrumbs_ties", base, _pair(tuned), {"rescale": True})
    expected = merge(config, tmp_path / "plain")
    pickled = finetune(base, tmp_path / "bin", seed=1, file_format="bin")
    config["models"][0]["model"] = str(pickled)
    _assert_same(merge(config, tmp_path / "out", **OPTIONS[name]), expected)
