"""Models of a config: whether they are there, whole, and of one architecture.

Configs, indexes and the headers of safetensors files are read here, tensors never.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from mergekit.architecture import ModelArchitecture, arch_info_for_config
from mergekit.common import ModelReference
from mergekit.io.lazy_tensor_loader import ShardedTensorIndex
from mergekit.options import MergeOptions
from transformers import PretrainedConfig

from mergekit_breadcrumbs.check.attempt import attempt, first_line
from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.files import fault_in_config, fault_in_directory
from mergekit_breadcrumbs.check.problems import Place, Problems, place_name
from mergekit_breadcrumbs.check.schema import read_reference
from mergekit_breadcrumbs.check.sections import sections
from mergekit_breadcrumbs.check.weights import Shape, read_index
from mergekit_breadcrumbs.wording import one_line


@dataclass
class ModelFiles:
    """What is known of one model without reading a tensor of it.

    `place` is the first one that names it.
    """

    place: Place
    config: PretrainedConfig | None = None
    architecture: ModelArchitecture | None = None
    index: ShardedTensorIndex | None = None
    shapes: dict[str, Shape] = field(default_factory=dict)

    @property
    def architecture_name(self) -> str:
        """The name of the architecture, as in its config.json."""
        names = getattr(self.config, "architectures", None) or ["no architecture"]
        return ", ".join(map(str, names))


def find_models(
    data: dict[Any, Any], options: MergeOptions, problems: Problems
) -> dict[ModelReference, ModelFiles]:
    """Find every model of a config; report what is missing where it is first named."""
    found: dict[ModelReference, ModelFiles] = {}
    for section in sections(data):
        for key in ("base_model", "model"):
            # What cannot be read is told where the file is checked as a whole.
            model, _ = read_reference(section.get(key))
            if model is not None and model not in found:
                found[model] = ModelFiles((*section.place, key))
    directories: dict[str, ModelFiles] = {}
    for model, files in found.items():
        if os.path.exists(model.model.path):
            directory = f"{os.path.realpath(model.model.path)}+{model.lora}"
            first = directories.setdefault(directory, files)
            if first is not files:
                text = f"is the same directory as {place_name(first.place)}"
                problems.add(Code.SAME_DIRECTORY, files.place, text)
                found[model] = replace(first, place=files.place)
                continue
        _read_files(model, files, options, problems)
    return found


def check_architectures(
    models: Mapping[ModelReference, ModelFiles],
    options: MergeOptions,
    problems: Problems,
) -> None:
    """Report each model whose architecture is not that of the first one."""
    known = [files for files in models.values() if files.architecture]
    for files in () if options.allow_crimes else known:
        if files.architecture != known[0].architecture:
            problems.add(
                Code.OTHER_ARCHITECTURE,
                files.place,
                f"is a {files.architecture_name}, but others are a"
                f" {known[0].architecture_name}: models of different architectures do"
                " not merge (--allow-crimes lets mergekit try)",
            )


def _read_files(
    model: ModelReference, files: ModelFiles, options: MergeOptions, problems: Problems
) -> None:
    place = files.place
    if model.lora is not None:
        _check_adapter(model, place, options, problems)
    directory = _directory(model.model, place, options, problems)
    if directory is None:
        return
    if fault := fault_in_directory(directory):
        text = f"its {fault}"
        problems.add(Code.UNREADABLE_WEIGHTS, place, text)
        return
    if fault := fault_in_config(directory):
        problems.add(Code.UNUSABLE_CONFIG, place, f"its {fault}")
        return
    # transformers raises a dozen types for a config.json that is missing or odd.
    config, error = attempt(model.config, trust_remote_code=options.trust_remote_code)
    if config is not None and not config.architectures:
        error = ValueError("it names no architecture")
    elif config is not None:
        files.architecture, error = attempt(arch_info_for_config, config)
    if error is None:
        files.config = config
    else:
        text = f"its config.json cannot be used: {first_line(error)}"
        problems.add(Code.UNUSABLE_CONFIG, place, text)
    lazily = options.lazy_unpickle
    files.index, files.shapes, fault = read_index(directory, lazily)
    if fault:
        text = f"its weights cannot be read: {fault}"
        problems.add(Code.UNREADABLE_WEIGHTS, place, text)


def _directory(
    model: Any, place: Place, options: MergeOptions, problems: Problems
) -> str | None:
    """Return where the files of a model are, here or in the hub's cache."""
    if os.path.isdir(model.path):
        return str(model.path)
    if os.path.exists(model.path):
        problems.add(
            Code.MODEL_IS_FILE,
            place,
            f"{one_line(model.path)} is a file, not a model directory: configs that"
            " name weight files are for mergekit-pytorch and cannot be inspected",
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
            problems.add(
                Code.CACHED_BUT_OFFLINE,
                place,
                "is in the hub's cache, but mergekit still asks the hub for its files,"
                " and HF_HUB_OFFLINE is set: unset it, or write the directory"
                f" {cached}",
            )
        return str(cached)
    except HFValidationError:
        text = f"not found: there is no directory {one_line(model.path)}"
        problems.add(Code.MODEL_NOT_FOUND, place, text + _path_hint(model.path))
    except LocalEntryNotFoundError:
        nowhere = (
            f"no directory {one_line(model.path)} here, and none in the hub's cache"
        )
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            text = f"not found: {nowhere} (HF_HUB_OFFLINE is set)"
            problems.add(Code.MODEL_NOT_FOUND, place, text)
        else:
            problems.add(
                Code.MODEL_NOT_CHECKED,
                place,
                f"not checked: there is {nowhere}; mergekit will look for it on the hub"
                " and download it",
            )
    return None


def _path_hint(path: str) -> str:
    if path.startswith("~") or "$" in path:
        return " (neither ~ nor $ is expanded in a config)"
    if not os.path.isabs(path):
        return " (paths are relative to the working directory, not to the config)"
    return ""


def _check_adapter(
    model: ModelReference, place: Place, options: MergeOptions, problems: Problems
) -> None:
    if not options.lora_merge_cache:
        problems.add(
            Code.NO_ADAPTER_CACHE,
            place,
            "a LoRA adapter is merged into its model first, which takes a directory:"
            " add --lora-merge-cache DIRECTORY",
        )
    where = _directory(model.lora, place, options, problems)
    if where is not None and not Path(where, "adapter_config.json").exists():
        text = f"no adapter_config.json in the LoRA adapter {one_line(model.lora.path)}"
        problems.add(Code.NO_ADAPTER, place, text)
    elif where is not None and (fault := fault_in_directory(where)):
        text = f"the LoRA adapter's {fault}"
        problems.add(Code.UNREADABLE_WEIGHTS, place, text)
