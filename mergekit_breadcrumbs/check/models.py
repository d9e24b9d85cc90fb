"""Models of a config: whether they are there, whole, and of one architecture.

Configs, indexes and the headers of safetensors files are read here, tensors never.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from mergekit.architecture import ModelArchitecture, arch_info_for_config
from mergekit.common import ModelReference
from mergekit.io.lazy_tensor_loader import ShardedTensorIndex, ShardInfo
from mergekit.options import MergeOptions
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig

from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.wording import one_line

Shape = tuple[int, ...]
_PICKLED = "pytorch_model.bin"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass
class Found:
    """What is known of one model without reading a tensor of it."""

    config: PretrainedConfig | None = None
    architecture: ModelArchitecture | None = None
    index: ShardedTensorIndex | None = None
    shapes: dict[str, Shape] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The name of the architecture."""
        names = getattr(self.config, "architectures", None) or ["no architecture"]
        return ", ".join(names)


def find_models(
    places: Mapping[ModelReference, Place], options: MergeOptions, problems: Problems
) -> dict[ModelReference, Found]:
    """Find every model, each reported at its place if something is missing."""
    return {
        model: _find(model, place, options, problems) for model, place in places.items()
    }


def check_architectures(
    models: Mapping[ModelReference, Found],
    places: Mapping[ModelReference, Place],
    options: MergeOptions,
    problems: Problems,
) -> None:
    """Report each model whose architecture is not that of the first one."""
    if options.allow_crimes:
        return
    first = next((found for found in models.values() if found.architecture), None)
    for model, found in models.items():
        if first and found.architecture and found.architecture != first.architecture:
            problems.error(
                places[model],
                f"is a {found.kind}, but others are a {first.kind}: models of different"
                " architectures do not merge (--allow-crimes lets mergekit try)",
            )


def _find(
    model: ModelReference, place: Place, options: MergeOptions, problems: Problems
) -> Found:
    found = Found()
    if model.lora is not None:
        _check_adapter(model, place, options, problems)
    directory = _directory(model.model, place, options, problems)
    if directory is None:
        return found
    try:
        config = model.config(trust_remote_code=options.trust_remote_code)
        if not config.architectures:
            raise ValueError("it names no architecture")
        found.architecture = arch_info_for_config(config)
        found.config = config
    # transformers raises a dozen types for a config.json that is missing or odd.
    except Exception as error:
        text = f"its config.json cannot be used: {_first_line(error)}"
        problems.error(place, text)
    try:
        _read_index(found, directory)
    # A header is checked by safetensors, an index by nobody: anything may come.
    except Exception as error:
        problems.error(place, f"its weights cannot be read: {_first_line(error)}")
    return found


def _directory(
    model: Any, place: Place, options: MergeOptions, problems: Problems
) -> str | None:
    """Return where the files of a model are, here or in the hub's cache."""
    if os.path.isdir(model.path):
        return str(model.path)
    if os.path.exists(model.path):
        problems.error(
            place,
            f"{one_line(model.path)} is a file, not a model directory: configs of weight"
            " files are for mergekit-pytorch, and are not inspected",
        )
        return None
    try:
        cached = huggingface_hub.snapshot_download(
            model.path,
            revision=model.revision,
            cache_dir=options.transformers_cache,
            local_files_only=True,
        )
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            problems.warning(
                place,
                "is in the hub's cache, but mergekit asks the hub for its files all the"
                " same, and HF_HUB_OFFLINE is set: unset it, or write the directory"
                f" {cached}",
            )
        return str(cached)
    except HFValidationError:
        text = f"not found: there is no directory {one_line(model.path)}"
        problems.error(place, text + _path_hint(model.path))
    except LocalEntryNotFoundError:
        nowhere = (
            f"no directory {one_line(model.path)} here, and none in the hub's cache"
        )
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            problems.error(place, f"not found: {nowhere} (HF_HUB_OFFLINE is set)")
        else:
            problems.warning(
                place,
                f"not checked: there is {nowhere}; mergekit will look for it on the hub"
                " and download it",
            )
    return None


def _path_hint(path: str) -> str:
    if path.startswith("~") or "$" in path:
        return " (neither ~ nor $ is expanded in a config)"
    if not os.path.isabs(path):
        return " (paths begin where the command is run, not where the config is)"
    return ""


def _check_adapter(
    model: ModelReference, place: Place, options: MergeOptions, problems: Problems
) -> None:
    if not options.lora_merge_cache:
        problems.error(
            place,
            "a LoRA adapter is merged into its model first, which needs a directory:"
            " give --lora-merge-cache DIRECTORY",
        )
    where = _directory(model.lora, place, options, problems)
    if where is not None and not Path(where, "adapter_config.json").exists():
        text = f"no adapter_config.json in the LoRA adapter {one_line(model.lora.path)}"
        problems.error(place, text)


def _read_index(found: Found, directory: str) -> None:
    """Read the names and shapes of all tensors, and see that every file is there."""
    index = _index(directory)
    for shard in index.shards:
        path = Path(directory, shard.filename)
        if not path.exists():
            raise FileNotFoundError(f"there is no {shard.filename}")
        if not index.is_safetensors:
            found.shapes |= _pickled_shapes(path)
            continue
        try:
            with safe_open(path, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # not a mapping
                    found.shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except SafetensorError as error:
            raise ValueError(f"{shard.filename}: {error}") from None
    found.index = index


def _index(directory: str) -> ShardedTensorIndex:
    """Return mergekit's index, without reading all of a pickled file for it."""
    names = [n for n in os.listdir(directory) if n.startswith(_WEIGHTS)]
    if names != [_PICKLED]:
        return ShardedTensorIndex.from_disk(directory)
    keys = _pickled_shapes(Path(directory, _PICKLED))
    paths = dict.fromkeys(keys, _PICKLED)
    shards = [ShardInfo(_PICKLED, list(keys))]
    return ShardedTensorIndex(directory, False, paths, shards)


def _pickled_shapes(path: Path) -> dict[str, Shape]:
    # Mapped into memory, and to no device: only the pickle is read, not the numbers.
    tensors = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    tensors = tensors.get("state_dict", tensors)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
