"""LoRA adapters: whether each stands where mergekit looks for one, and can be used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference
from mergekit.options import MergeOptions
from transformers import PretrainedConfig

from mergekit_breadcrumbs.check.adapter_fit import why_unfit
from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.wording import one_line

_CONFIG = "adapter_config.json"
# Of a whole model; those of an adapter begin with its own name.
_WEIGHTS = ("model.safetensors", "model-", "pytorch_model")


def is_adapter(model: ModelReference, directory: str) -> bool:
    """Whether the directory of a model holds an adapter and no whole model."""
    if not _has_adapter(directory):
        return False
    # Of a model from the hub only some files may be here.
    local = os.path.isdir(model.model.path)
    return not (_has_weights(directory) if local else _has(directory, "config.json"))


def report_adapter(
    model: ModelReference,
    directory: str,
    adapter: str | None,
    place: Place,
    problems: Problems,
) -> None:
    """Report an adapter that is written in the place of a model.

    `directory` is its own, `adapter` that of what is written after the `+`.
    """
    if adapter is not None and not _has_adapter(adapter):
        text = f"write {model.lora}+{model.model}, the model first"
    else:
        text = f"write BASE+{model.model}, with the model that it was trained on"
        trained_on = _trained_on(directory)
        if trained_on:
            text += f" (its {_CONFIG} says {one_line(trained_on)})"
    problems.add(Code.ADAPTER_AS_MODEL, place, f"is a LoRA adapter: {text}")


def check_beside(
    model: ModelReference, directory: str, place: Place, problems: Problems
) -> None:
    """Warn of an adapter in the directory of a whole model."""
    if _has_adapter(directory):
        text = (
            f"the directory {one_line(model.model.path)} holds a LoRA adapter as well"
            f" ({_CONFIG}): transformers applies it when it loads the model, mergekit"
        )
        text += " does not" if model.lora is None else " only here"
        problems.add(Code.ADAPTER_BESIDE_MODEL, place, text)


def check_adapter(
    model: ModelReference,
    adapter: str,
    config: PretrainedConfig | None,
    place: Place,
    options: MergeOptions,
    problems: Problems,
) -> None:
    """Report an adapter that is none, or that does not fit the model of this config.

    `adapter` is its directory. A directory in the hub's cache may lack what has not
    been downloaded, and is looked at only so far.
    """
    if not _has_adapter(adapter):
        text = f"no {_CONFIG} in the LoRA adapter {one_line(model.lora.path)}"
        problems.add(Code.NO_ADAPTER, place, text)
    elif config is not None and os.path.isdir(model.lora.path):
        trusted = options.trust_remote_code
        fault = why_unfit(adapter, config, trust_remote_code=trusted)
        if fault is not None:
            code, reason = fault
            fits = code is not Code.ADAPTER_OF_OTHER_MODEL
            what = "cannot be merged" if fits else "does not fit this model"
            text = f"the LoRA adapter {one_line(model.lora.path)} {what}: {reason}"
            problems.add(code, place, text)


def _has_adapter(directory: str) -> bool:
    return _has(directory, _CONFIG)


def _has(directory: str, name: str) -> bool:
    return Path(directory, name).is_file()


def _has_weights(directory: str) -> bool:
    names, _ = attempt(os.listdir, directory)
    return any(name.startswith(_WEIGHTS) for name in names or ())


def _trained_on(directory: str) -> Any:
    text, _ = attempt(Path(directory, _CONFIG).read_text, encoding="utf-8")
    settings, _ = attempt(json.loads, text or "")
    return settings.get("base_model_name_or_path") if isinstance(settings, dict) else ""
