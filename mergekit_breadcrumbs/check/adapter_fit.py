"""Whether a LoRA adapter fits the model that it is written with.

PEFT puts it in as for a merge, but on the meta device, where tensors have a shape and
no numbers.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from mergekit.common import get_auto_cls
from peft.utils import set_peft_model_state_dict
from safetensors import safe_open
from transformers import PretrainedConfig

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.host.attempt import attempt, first_line, quiet
from mergekit_breadcrumbs.wording import listed

Fault = tuple[Code, str]

_PREFIX = "base_model.model."
_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\)"
    r" from checkpoint, the shape in current model is torch\.Size\(\[(.*?)\]\)"
)


def why_unfit(
    directory: str, config: PretrainedConfig, *, trust_remote_code: bool
) -> Fault | None:
    """Return why an adapter cannot be merged into a model of this config.

    None if it can, or if that cannot be told here.
    """
    settings, error = attempt(peft.PeftConfig.from_pretrained, directory)
    if settings is None:
        reason = f"its adapter_config.json cannot be used: {_reason(error)}"
        return Code.UNUSABLE_ADAPTER, reason
    if settings.is_prompt_learning:
        kind = str(getattr(settings.peft_type, "value", settings.peft_type))
        reason = f"it is of the kind {kind}, which cannot be merged into a model"
        return Code.UNUSABLE_ADAPTER, reason
    tensors, reason = _read_shapes(Path(directory))
    if reason:
        return Code.UNUSABLE_ADAPTER, reason
    with quiet(), torch.device("meta"):
        model = _empty_model(config, trust_remote_code)
        if model is None:
            return None
        fault = _put_in(model, settings, tensors)
    if fault is None or fault[0] is not Code.ADAPTER_OF_OTHER_MODEL:
        return fault
    base = settings.base_model_name_or_path
    hint = f" (its adapter_config.json says that it was trained on {base})"
    return fault[0], fault[1] + (hint if base else "")


def _reason(error: Exception | None) -> str:
    """Return what an exception says, and of which type it is if that is only a word."""
    text = first_line(error or Exception())
    return text if " " in text else f"{type(error).__name__}: {text}"


def _empty_model(config: PretrainedConfig, trust_remote_code: bool) -> Any:
    auto_class, _ = attempt(get_auto_cls, (config.architectures or [""])[0])
    if auto_class is None:
        return None
    trusted = {"trust_remote_code": trust_remote_code}
    return attempt(auto_class.from_config, copy.deepcopy(config), **trusted)[0]


def _put_in(
    model: Any, settings: Any, tensors: Mapping[str, torch.Tensor]
) -> Fault | None:
    settings.inference_mode = True
    # Some ways to begin look at the numbers of the model, which are not there.
    if hasattr(settings, "init_lora_weights"):
        settings.init_lora_weights = False
    types = peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING
    peft_class = types.get(settings.task_type, peft.PeftModel)
    adapted, error = attempt(
        peft_class, model, settings, "default", low_cpu_mem_usage=True
    )
    if adapted is None:
        return _fault_of(error)
    result, error = attempt(
        set_peft_model_state_dict, adapted, dict(tensors), low_cpu_mem_usage=True
    )
    if result is None:
        return _fault_of(error)
    unused = [_own_name(name) for name in result.unexpected_keys]
    if unused:
        text = f"the model has no place for its {listed(unused)}"
        return Code.ADAPTER_OF_OTHER_MODEL, f"{text}: PEFT would leave that out"
    empty = [n for n in result.missing_keys if "lora_" in n and ".default" in n]
    if empty:
        text = f"it lacks {listed([_own_name(name) for name in empty])}"
        return Code.ADAPTER_OF_OTHER_MODEL, f"{text}: PEFT would change nothing there"
    merge, error = attempt(getattr, adapted, "merge_and_unload")
    if merge is not None:
        _, error = attempt(merge)
    if isinstance(error, (AttributeError, RuntimeError)):
        return _fault_of(error, Code.UNUSABLE_ADAPTER)
    return None


def _fault_of(
    error: Exception | None, code: Code = Code.ADAPTER_OF_OTHER_MODEL
) -> Fault | None:
    """Return what is wrong, unless it is that tensors on the meta device are empty."""
    text = str(error)
    if re.search(r"\bmeta\b", text) or isinstance(error, ImportError):
        return None
    found = _MISMATCH.search(text)
    if found:
        own, theirs = (found[n].replace(", ", " x ") or "()" for n in (2, 3))
        text = f"its {_own_name(found[1])} has the shape {own}, in the model {theirs}"
        return code, text
    if isinstance(error, KeyError):
        return code, f"it lacks {_own_name(str(error.args[0]))}"
    return code, _reason(error)


def _own_name(name: str) -> str:
    """Return the name of a tensor as it is in the adapter's file."""
    return name.removeprefix(_PREFIX).replace(".default", "")


def _read_shapes(directory: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Return an empty tensor for each of the adapter, or why there are none."""
    file = directory / "adapter_model.safetensors"
    if file.is_file():
        return _read_header(file)
    file = directory / "adapter_model.bin"
    if not file.is_file():
        return {}, "it has no weights: there is no adapter_model.safetensors"
    how: dict[str, Any] = {"map_location": "meta", "weights_only": True}
    state, error = attempt(torch.load, file, mmap=True, **how)
    if error is not None:  # a file of the old kind cannot be mapped into memory
        state, error = attempt(torch.load, file, **how)
    if error is not None:
        return {}, f"its {file.name} cannot be read: {_reason(error)}"
    if not isinstance(state, dict):
        return {}, f"its {file.name} holds no state dict"
    return state, ""


def _read_header(file: Path) -> tuple[dict[str, torch.Tensor], str]:
    tensors: Any
    tensors, error = attempt(safe_open, file, framework="np")
    if tensors is None:
        return {}, f"its {file.name} cannot be read: {_reason(error)}"
    with tensors:
        shapes = {
            name: tensors.get_slice(name).get_shape()
            for name in tensors.keys()  # noqa: SIM118  # not a mapping
        }
    empty = {n: torch.empty(shape, device="meta") for n, shape in shapes.items()}
    return empty, ""
