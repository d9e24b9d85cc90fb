"""Indexes and weight files of every odd kind: a sentence, never a traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import SHARDED, finetune, load_tensors, make_base

from mergekit_breadcrumbs.host.weights import Weights, read_weights, rival_weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in one file, the same in shards, and in pickles of both kinds."""
    root = tmp_path_factory.mktemp("models")
    base = make_base(root / "single")
    finetune(base, root / "sharded", seed=1, max_shard_size=SHARDED)
    finetune(base, root / "pickled", seed=1, file_format="bin")
    finetune(base, root / "pickles", seed=1, file_format="bin", max_shard_size=SHARDED)
    return root


@pytest.mark.parametrize("kind", ["single", "sharded", "pickled", "pickles"])
def test_names_and_shapes(whole: Path, kind: str) -> None:
    """Every tensor of every kind of checkpoint, with its shape."""
    weights = read_weights(str(whole / kind))
    assert weights.fault == ""
    assert weights.index is not None
    expected = {n: tuple(t.shape) for n, t in load_tensors(whole / kind).items()}
    assert weights.shapes == expected
    assert weights.dtypes.keys() == expected.keys()
    assert weights.index.tensor_paths.keys() == expected.keys()


def _index(content: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "model.safetensors.index.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))

    return write


def _pickle(content: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        torch.save(content, folder / "pytorch_model.bin")

    return write


def _bytes(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for file in folder.glob("model-*.safetensors"):
            file.write_bytes(content)

    return write


def _lying_index(folder: Path) -> None:
    """One tensor is said to be where it is not."""
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    shards = sorted(set(index["weight_map"].values()))
    name = next(n for n, s in index["weight_map"].items() if s == shards[0])
    index["weight_map"][name] = shards[1]
    file.write_text(json.dumps(index))


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "index is no JSON": (_index("{"), "Expecting property name"),
    "index without a map": (_index({}), "weight_map"),
    "index is a list": (_index([]), "list indices must be integers"),
    "map is a list": (_index({"weight_map": [1]}), "list"),
    "shard is a number": (_index({"weight_map": {"a": 7}}), "there is no 7"),
    "shard is a list": (_index({"weight_map": {"a": []}}), "unhashable"),
    "shard is missing": (_index({"weight_map": {"a": "b"}}), "there is no b"),
    "shard's name is too long": (_index({"weight_map": {"a": "b" * 5000}}), "no bbb"),
    "shard's name has a NUL": (_index({"weight_map": {"a": "b\0"}}), "there is no b"),
    "shards of two types": (_index({"weight_map": {"a": "b", "c": 1}}), "'<' not"),
    "tensor is in another shard": (_lying_index, "which does not have it"),
    "shards are empty": (_bytes(b""), "model-00001-of-"),
    "shards are text": (_bytes(b"no weights at all"), "model-00001-of-"),
    "pickle of a list": (_pickle([1]), "holds no state dict, but a list"),
    "pickle of a list in it": (_pickle({"state_dict": [1]}), "holds no state dict"),
    "pickle of code": (_pickle({"a": Path("x")}), "Weights only load failed"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(whole: Path, name: str, tmp_path: Path) -> None:
    """What is wrong is said in one line, and no half of an index is used."""
    shutil.copytree(whole / "sharded", tmp_path / "model")
    write, expected = FAULTS[name]
    write(tmp_path / "model")
    weights = read_weights(str(tmp_path / "model"))
    assert weights == Weights(fault=weights.fault)
    assert expected in weights.fault
    assert "\n" not in weights.fault


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    """Removed or closed to the user since it was found: a sentence, too."""
    weights = read_weights(str(tmp_path / "gone"))
    assert weights == Weights(fault=weights.fault)
    assert "gone" in weights.fault


def test_a_pickle_of_more_than_tensors(tmp_path: Path) -> None:
    """Numbers beside the tensors, as trainers leave them, are no tensors."""
    state = {"a": torch.zeros(2, 3), "step": 7}
    torch.save(state, tmp_path / "pytorch_model.bin")
    weights = read_weights(str(tmp_path))
    assert (weights.shapes, weights.fault) == ({"a": (2, 3)}, "")
    assert weights.dtypes == {"a": "float32"}
    assert weights.index is not None


RIVALS = {
    ("model.safetensors",): None,
    ("model.safetensors.index.json", "model-00001-of-00001.safetensors"): None,
    ("model.safetensors", "pytorch_model.bin"): None,
    ("model.safetensors", "pytorch_model.bin.index.json"): None,
    ("model.safetensors", "model.safetensors.index.json"): (
        "model.safetensors.index.json",
        "model.safetensors",
    ),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"): (
        "pytorch_model.bin.index.json",
        "pytorch_model.bin",
    ),
    (): None,
}


@pytest.mark.parametrize("names", RIVALS, ids=" ".join)
def test_rivals(names: tuple[str, ...], tmp_path: Path) -> None:
    """A single file beside an index of its kind is read by transformers alone."""
    for name in names:
        (tmp_path / name).touch()
    assert rival_weights(str(tmp_path)) == RIVALS[names]
