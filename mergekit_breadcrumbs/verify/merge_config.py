"""The config of the merge, as mergekit leaves it in the folder, and its models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions
from pydantic import ValidationError

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.host.attempt import attempt, first_line
from mergekit_breadcrumbs.host.references import breadcrumb_folder
from mergekit_breadcrumbs.verify.faults import Fault
from mergekit_breadcrumbs.wording import visible

CONFIG_NAME = "mergekit_config.yml"


def read_merge_config(
    folder: Path, given: Path | None
) -> tuple[MergeConfiguration | None, list[Fault]]:
    """Read the config of a merge: the one that is given, or else the folder's."""
    path = given or folder / CONFIG_NAME
    if not path.is_file():
        text = f"there is no {CONFIG_NAME}: the merge stopped before it was written, or"
        text += " ran with --no-write-model-card"
        if (folder / "mergekit_moe_config.yml").is_file():
            text = "mergekit-moe made this model, and verify cannot repeat that"
        return None, [Fault(Code.NO_MERGE_CONFIG, text)]
    content, error = attempt(path.read_text, "utf-8")
    data = None
    if content is not None:
        data, error = attempt(yaml.safe_load, content)
    if error is None and not isinstance(data, dict):
        error = ValueError("it is no mapping" if data else "it is empty")
    config = None
    if error is None:
        config, error = attempt(MergeConfiguration.model_validate, data)
    if error is None:
        return config, []
    text = f"{path.name} cannot be read: {_reason(error)}"
    return None, [Fault(Code.NO_MERGE_CONFIG, visible(text))]


def open_models(
    config: MergeConfiguration, folder: Path, options: MergeOptions
) -> list[Fault]:
    """Open every model of a merge, and say which cannot be had.

    A LoRA adapter is merged into the cache that the options name, as for a merge.
    """
    LoaderCache().setup(options=options)
    faults = []
    for model in sorted(config.referenced_models(), key=str):
        where = _nowhere(model, folder, options)
        if where is None:
            _, error = attempt(
                model.config, trust_remote_code=options.trust_remote_code
            )
            if error is None:
                _, error = attempt(LoaderCache().get, model)
            if error is not None:
                here = os.path.isdir(model.model.path)
                said = f"{'' if here else ', is not here'}: {_reason(error)}"
                where = said, "" if here else _ELSEWHERE
        if where is not None:
            text, remedy = where
            text = f"the model {model}, which the config names{text}"
            faults.append(Fault(Code.CANNOT_REPEAT, visible(text), remedy))
    return faults


def _nowhere(model: Any, folder: Path, options: MergeOptions) -> tuple[str, str] | None:
    """Say what is known to be wrong with a model's path, and what to do."""
    same, _ = attempt(os.path.samefile, model.model.path, folder)
    if same:
        return ", is the merged folder itself: the merge has replaced it", ""
    in_file = model.lora and breadcrumb_folder(model, options.transformers_cache)
    if model.lora and not in_file and not options.lora_merge_cache:
        return (
            ", has a LoRA adapter, which is merged into a cache first",
            "add --lora-merge-cache DIRECTORY, as for the merge",
        )
    for path in filter(None, (model.model, model.lora)):
        # What could be a model of the hub is left to mergekit.
        local = path.path.startswith((".", "/", "~")) or path.path.count("/") > 1
        if local and not os.path.isdir(path.path):
            return f", is not here: there is no directory {path.path}", _ELSEWHERE
    return None


_ELSEWHERE = (
    "run this from where the merge ran (a config's paths are relative to that), or give"
    " a config with other paths by --config FILE"
)


def _reason(error: Exception) -> str:
    """Return why something failed, on one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else first["msg"]
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return first_line(error)
