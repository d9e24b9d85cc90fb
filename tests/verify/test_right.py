"""Folders that hold exactly what their config says: nothing is found in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from support.checkpoints import (
    SHARDED,
    finetune,
    load_tensors,
    make_base,
    make_lora,
)
from support.files import digests
from support.merged_folders import merge_folder, models, said, verified
from support.merging import configuration

from mergekit_breadcrumbs.verify.remake import OrderedConfig

A = {"weight": 0.7, "density": 0.8, "gamma": 0.05}
SMALL_FILES = {"out_shard_size": 16_000}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A base of two layers and two fine-tunings."""
    return models(tmp_path_factory.mktemp("llama"))


def _config(paths: list[str], method: str = "breadcrumbs", **keys: Any) -> Any:
    base, *tuned = paths
    return configuration(method, Path(base), {Path(path): A for path in tuned}, **keys)


def _slices(paths: list[str]) -> list[Any]:
    def sources(first: int, last: int) -> list[Any]:
        return [{"model": path, "layer_range": [first, last]} for path in paths]

    return [{"sources": sources(0, 2)}, {"sources": sources(1, 2)}]


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ({}, {}),
        ({}, SMALL_FILES),
        ({}, {"safe_serialization": False}),
        ({}, {"safe_serialization": False, **SMALL_FILES}),
        ({}, {"async_write": True, **SMALL_FILES}),
        ({"dtype": "bfloat16"}, {}),
        ({"dtype": "float32", "out_dtype": "bfloat16"}, {}),
        ({"method": "breadcrumbs_ties"}, {}),
        ({"tokenizer": {"source": "base"}, "chat_template": "chatml"}, {}),
        ({"tokenizer": {"source": "union", "pad_to_multiple_of": 10}}, {}),
        ({"chat_template": "chatml"}, {}),
        ({"method": "ties"}, {}),
        ({"method": "dare_ties"}, {"random_seed": 3}),
    ],
    ids=str,
)
def test_what_a_merge_wrote(
    keys: dict[str, Any], options: dict[str, Any], llama: list[str], tmp_path: Path
) -> None:
    """Every tensor is made again to the bit, whatever the files; nothing is written."""
    folder = merge_folder(_config(llama, **keys), tmp_path / "out", **options)
    before = digests(tmp_path)
    seed = {k: v for k, v in options.items() if k == "random_seed"}
    found = verified(folder, **seed)
    assert found.faults == []
    assert found.tensors == len(load_tensors(folder)) == 21
    assert found.elements == sum(t.numel() for t in load_tensors(folder).values())
    assert digests(tmp_path) == before


@pytest.mark.parametrize("tokenizer", [{}, {"tokenizer": {"source": "union"}}])
def test_without_a_base(
    tokenizer: dict[str, Any], llama: list[str], tmp_path: Path
) -> None:
    """Which model gives config and tokenizer is then anybody's guess."""
    inputs = {Path(path): {"weight": 0.5} for path in llama[1:]}
    config = configuration("linear", None, inputs, **tokenizer)
    assert said(merge_folder(config, tmp_path / "out")) == []


def test_slices(llama: list[str], tmp_path: Path) -> None:
    """Layers that are chosen twice are there twice, and others are no loss."""
    config = _config(llama)
    del config["models"]
    config |= {"slices": _slices(llama), "parameters": A}
    folder = merge_folder(config, tmp_path / "out")
    assert said(folder) == []
    config["slices"] = config["slices"][1:]
    folder = merge_folder(config, tmp_path / "short")
    assert said(folder) == []


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("qwen3", {"tied": True, "rows": 80, "tokens": 64}),
        ("mistral", {"dtype": torch.bfloat16, "max_shard_size": SHARDED}),
        ("llama", {"dtype": torch.float16, "file_format": "bin"}),
        ("bert", {}),
    ],
)
def test_models(architecture: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Tied heads, spare rows, several dtypes, formats and architectures."""
    paths = models(tmp_path, architecture=architecture, **options)
    assert said(merge_folder(_config(paths), tmp_path / "out")) == []


def test_vocabularies(tmp_path: Path) -> None:
    """Embeddings that a merge permutes and enlarges, and the tokenizer it makes."""
    base = make_base(tmp_path / "base")
    added = {"added_rows": 2, "added_tokens": ["one", "two"]}
    tuned = finetune(base, tmp_path / "tuned", seed=1, **added)
    paths = [str(base), str(tuned)]
    for source in ("union", "base", str(tuned)):
        config = _config(paths, tokenizer={"source": source})
        folder = merge_folder(config, tmp_path / Path(source).name / "out")
        assert said(folder) == [], source


@pytest.mark.parametrize("first", [1, 2])
def test_order_of_the_models(first: int, tmp_path: Path) -> None:
    """mergekit numbers the tokens of a union by chance; either way is right."""
    base = make_base(tmp_path / "base")
    tuned = [
        finetune(base, tmp_path / f"m{i}", seed=i, added_rows=1, added_tokens=[f"t{i}"])
        for i in (1, 2)
    ]
    paths = [str(path) for path in (base, *tuned)]
    config = _config(paths, tokenizer={"source": "union"})
    plain = MergeConfiguration.model_validate(config)
    models = [ModelReference.parse(paths[i]) for i in (first, 3 - first, 0)]
    folder = merge_folder(
        OrderedConfig.of(plain, models), tmp_path / "out", told=config
    )
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    assert [t["id"] for t in vocabulary if t["content"] == f"t{first}"] == [64]
    assert said(folder) == []


def _one_vocabulary(model: Path) -> None:
    """Have the added tokens of a model be ordinary ones of its vocabulary."""
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    for token in [t for t in tokenizer["added_tokens"] if not t["special"]]:
        tokenizer["added_tokens"].remove(token)
        tokenizer["model"]["vocab"][token["content"]] = token["id"]
    file.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("count", [1, 2])
def test_numbers_by_chance(count: int, tmp_path: Path) -> None:
    """mergekit numbers a vocabulary's own tokens as they come out of a hash table."""
    base = make_base(tmp_path / "base")
    names = [f"new{i}" for i in range(7)]
    paths = [str(base)]
    for seed in range(1, count + 1):
        own = {"added_rows": 6, "added_tokens": names[seed - 1 : seed + 5]}
        tuned = finetune(base, tmp_path / f"tuned{seed}", seed=seed, **own)
        _one_vocabulary(tuned)
        paths.append(str(tuned))
    for keys in ({"tokenizer": {"source": "union"}}, {"tokenizer_source": "union"}):
        config = _config(paths, **keys)
        folder = merge_folder(config, tmp_path / "out" / next(iter(keys)))
        assert said(folder) == [], keys
    file = folder / "tokenizer.json"
    swapped = file.read_text().replace('"new3"', '"x"').replace('"new4"', '"new3"')
    file.write_text(swapped.replace('"x"', '"new4"'))
    assert any(line.startswith("BC901") for line in said(folder))


# peft asks transformers 5 for a name that it is giving up.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapter(tmp_path: Path) -> None:
    """A LoRA adapter needs the cache of the merge, and is merged into it again."""
    base = make_base(tmp_path / "base")
    lora = make_lora(base, tmp_path / "lora", seed=1)
    config = configuration("breadcrumbs", base, {}, A)
    config["models"] = [{"model": f"{base}+{lora}"}]
    cache = str(tmp_path / "cache")
    folder = merge_folder(config, tmp_path / "out", lora_merge_cache=cache)
    shutil.rmtree(cache)
    [needs] = said(folder)
    assert needs.startswith(f"BC919 the model {base}+{lora}, which the config names,")
    assert said(folder, lora_merge_cache=cache) == []


def test_base_without_tokenizer(llama: list[str], tmp_path: Path) -> None:
    """What the base lacks, too, is not asked for."""
    base = shutil.copytree(llama[0], tmp_path / "base")
    for file in base.glob("tokenizer*"):
        file.unlink()
    folder = merge_folder(_config([str(base), llama[1]]), tmp_path / "out")
    assert said(folder) == []


def test_given_config(llama: list[str], tmp_path: Path) -> None:
    """Another config may stand in for the folder's own, which is then not read."""
    folder = merge_folder(_config(llama), tmp_path / "out")
    kept = (folder / "mergekit_config.yml").rename(tmp_path / "kept.yml")
    assert said(folder, kept) == []
    (folder / "mergekit_config.yml").write_text("]")
    assert said(folder, kept) == []
