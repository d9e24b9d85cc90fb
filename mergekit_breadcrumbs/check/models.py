"""Models of a config: whether they are there, whole, and of one architecture.

Configs, indexes and the headers of safetensors files are read here, tensors never. The
files of models on the hub are in directories by now.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mergekit.architecture import ModelArchitecture, arch_info_for_config
from mergekit.common import ModelReference
from mergekit.io.lazy_tensor_loader import ShardedTensorIndex
from mergekit.options import MergeOptions
from transformers import PretrainedConfig

from mergekit_breadcrumbs.check.adapter_cache import check_cache
from mergekit_breadcrumbs.check.adapters import (
    check_adapter,
    check_beside,
    is_adapter,
    report_adapter,
)
from mergekit_breadcrumbs.check.breadcrumb_files import (
    check_base_of_file,
    read_file,
    report_file_as_model,
    weights_of,
)
from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.hub import HubModel
from mergekit_breadcrumbs.check.names import HubModels
from mergekit_breadcrumbs.check.problems import Place, Problems, place_name
from mergekit_breadcrumbs.check.schema import read_reference
from mergekit_breadcrumbs.check.sections import sections
from mergekit_breadcrumbs.files.reader import BreadcrumbFile, is_breadcrumb_file
from mergekit_breadcrumbs.host.attempt import attempt, first_line
from mergekit_breadcrumbs.host.files import fault_in_config, fault_in_directory
from mergekit_breadcrumbs.host.weights import Weights, read_weights, rival_weights
from mergekit_breadcrumbs.wording import one_line


@dataclass
class ModelFiles:
    """What is known of one model without reading a tensor of it.

    `place` is the first one that names it; `hub` is None for a local directory.
    `directory` has its config and tokenizer; the weights are elsewhere if an adapter is
    merged into them. `file` is the breadcrumb file that it is made of, if it is.
    `here` says that all of it is here, and not only headers.
    """

    place: Place
    directory: str | None = None
    config: PretrainedConfig | None = None
    architecture: ModelArchitecture | None = None
    weights: Weights = field(default_factory=Weights)
    hub: HubModel | None = None
    file: BreadcrumbFile | None = None
    here: bool = True

    @property
    def architecture_name(self) -> str:
        """The name of the architecture, as in its config.json."""
        names = getattr(self.config, "architectures", None) or ["no architecture"]
        return ", ".join(map(str, names))


def find_models(
    data: dict[Any, Any],
    hub_models: HubModels,
    options: MergeOptions,
    problems: Problems,
) -> dict[ModelReference, ModelFiles]:
    """Find every model of a config; report what is missing where it is first named.

    `hub_models` are those that `find_names` found elsewhere than here.
    """
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
        files.hub = hub_models.get(model.model.path)
        paths = {path.path for path in (model.model, model.lora) if path}
        files.here = not paths & hub_models.keys()
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
    directory = _directory(model.model, place, options, problems)
    adapter = model.lora and _directory(model.lora, place, options, problems)
    if directory is not None and is_breadcrumb_file(directory):
        report_file_as_model(model, directory, place, problems)
        return
    file = None
    if adapter is not None and is_breadcrumb_file(adapter):
        file = read_file(model, adapter, place, problems)
        if file is None:
            return
    if directory is not None and is_adapter(model, directory):
        report_adapter(model, directory, adapter, place, problems)
        return
    for where, whose in ((directory, "its"), (adapter, "the LoRA adapter's")):
        if where and (fault := fault_in_directory(where)):
            problems.add(Code.UNREADABLE_WEIGHTS, place, f"{whose} {fault}")
            return
    files.directory = weights = directory
    if directory is not None:
        if fault := fault_in_config(directory):
            problems.add(Code.UNUSABLE_CONFIG, place, f"its {fault}")
            return
        _read_config(model, files, options, problems)
        check_beside(model, directory, place, problems)
    if file is not None:
        files.file, files.weights = file, weights_of(file)
        if directory is not None:
            check_base_of_file(
                file, directory, place, options, problems, here=files.here
            )
        return
    # That there is no adapter has been said, or that it is not known.
    if model.lora is not None and (adapter is not None or options.lora_merge_cache):
        merged = check_cache(model, [directory, adapter], place, options, problems)
        weights = merged or weights
        if adapter is not None and merged is None:
            check_adapter(model, adapter, files.config, place, options, problems)
    if weights is not None:
        _read_weights(files, weights, options, problems)


def _read_config(
    model: ModelReference, files: ModelFiles, options: MergeOptions, problems: Problems
) -> None:
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
        problems.add(Code.UNUSABLE_CONFIG, files.place, text)


def _read_weights(
    files: ModelFiles, directory: str, options: MergeOptions, problems: Problems
) -> None:
    if files.hub is not None and files.hub.pickled:
        files.weights = _pickled_weights(directory)
        text = "has only pickled weights: their shapes show after the download"
        problems.add(Code.SHAPES_NOT_CHECKED, files.place, text)
        return
    files.weights = read_weights(directory, options.lazy_unpickle)
    rivals = rival_weights(directory)
    if rivals is not None:
        text = (
            f"has two sets of weights: mergekit goes by {rivals[0]}, transformers loads"
            f" {rivals[1]}: delete the one that is not meant"
        )
        problems.add(Code.TWO_WEIGHT_SETS, files.place, text)
    elif files.weights.fault:
        text = f"its weights cannot be read: {files.weights.fault}"
        problems.add(Code.UNREADABLE_WEIGHTS, files.place, text)


def _pickled_weights(directory: str) -> Weights:
    """Return what is known of pickled weights that are not here: their index."""
    if not Path(directory, "pytorch_model.bin.index.json").exists():
        return Weights()
    index, error = attempt(ShardedTensorIndex.from_disk, directory)
    return Weights(index, fault="" if error is None else first_line(error))


def _directory(
    model: Any, place: Place, options: MergeOptions, problems: Problems
) -> str | None:
    """Return a model's directory; one that is nowhere is told of already."""
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
