"""Pickled checkpoints: those that mergekit merges pass, and no others."""

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from support.checkpoints import finetune, load_tensors, make_base

from mergekit_breadcrumbs.check.run import check_text

Tensors = dict[str, torch.Tensor]
NAME = "pytorch_model.bin"
TEXT = """\
merge_method: breadcrumbs
base_model: base
models: [{model: pickled, parameters: {weight: 1}}]
parameters: {density: 0.5, gamma: 0.1}
"""


def _save(wrap: Callable[[Tensors], Any] = dict, zipped: bool = True) -> Any:
    def save(tensors: Tensors, folder: Path) -> None:
        state = wrap(tensors)
        torch.save(state, folder / NAME, _use_new_zipfile_serialization=zipped)

    return save


def _save_shards(
    ending: str,
    wrap: Callable[[Tensors], Any] = dict,
    zipped: bool = True,
    index: str = NAME,
) -> Any:
    def save(tensors: Tensors, folder: Path) -> None:
        names = sorted(tensors)
        places = {name: f"part-{i % 2}.{ending}" for i, name in enumerate(names)}
        for file in set(places.values()):
            part = {n: tensors[n] for n in names if places[n] == file}
            path = folder / file
            torch.save(wrap(part), path, _use_new_zipfile_serialization=zipped)
        content = json.dumps({"weight_map": places})
        (folder / f"{index}.index.json").write_text(content)

    return save


def _save_named_otherwise(_: Tensors, folder: Path) -> None:
    shutil.copy("tuned/model.safetensors", folder / "X.SafeTensors")
    places = dict.fromkeys(load_tensors(Path("tuned")), "X.SafeTensors")
    content = json.dumps({"weight_map": places})
    (folder / f"{NAME}.index.json").write_text(content)


def _nested(tensors: Tensors) -> Any:
    return {"state_dict": dict(tensors)}


def _parameters(tensors: Tensors) -> Any:
    return {name: torch.nn.Parameter(value) for name, value in tensors.items()}


SAVED = {
    "zip": _save(),
    "before zip": _save(zipped=False),
    "ordered": _save(OrderedDict),
    "parameters": _save(_parameters),
    "more than tensors": _save(lambda tensors: {**tensors, "step": 7, "x": {"a": 1}}),
    "nested": _save(_nested),
    "shards": _save_shards("bin"),
    "shards of another ending": _save_shards("pt"),
    "shards before zip": _save_shards("bin", zipped=False),
    "nested shards": _save_shards("bin", _nested),
    "shards in an index of safetensors": _save_shards("bin", index="model.safetensors"),
    "safetensors in an index of pickles": _save_named_otherwise,
}


@pytest.fixture(scope="module", autouse=True)
def _beside_the_models(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("models"))
        finetune(make_base(Path("base"), layers=1), Path("tuned"), seed=1)
        yield


@pytest.mark.parametrize("lazily", [False, True], ids=["whole", "lazily"])
@pytest.mark.parametrize("kind", SAVED)
def test_what_mergekit_loads(kind: str, lazily: bool, tmp_path: Path) -> None:
    """An error where the merge fails, and none where it does not."""
    shutil.rmtree("pickled", ignore_errors=True)
    ignored = shutil.ignore_patterns("*.safetensors")
    shutil.copytree("tuned", "pickled", ignore=ignored)
    SAVED[kind](load_tensors(Path("tuned")), Path("pickled"))
    options = MergeOptions(lazy_unpickle=lazily, write_model_card=False, quiet=True)
    checked = check_text(TEXT, options)
    LoaderCache().loaders.clear()
    config = MergeConfiguration.model_validate(yaml.safe_load(TEXT))
    try:
        run_merge(config, str(tmp_path / "out"), options)
        merged = True
    except Exception:
        merged = False
    finally:
        LoaderCache().loaders.clear()
    assert merged != checked.failed, [str(problem) for problem in checked.problems]
