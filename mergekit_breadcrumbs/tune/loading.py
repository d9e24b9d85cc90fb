"""Models of transformers, from a folder or from the tensors of a merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from mergekit.common import get_auto_cls

from mergekit_breadcrumbs.host.attempt import quiet
from mergekit_breadcrumbs.host.loading import quietly

_GENERATION = "generation_config.json"
_TOKENIZER = "tokenizer_config.json"


def read_model(folder: Path, trust_remote_code: bool = False) -> Any:
    """Load the model that is in a folder, as transformers does.

    Raises:
        Exception: whatever transformers raises.
    """
    with quiet(), quietly():
        config = _read_config(folder, trust_remote_code)
        kind = _class_of(config) or get_auto_cls(config.architectures[0])
        return kind.from_pretrained(folder, trust_remote_code=trust_remote_code)


def make_model(
    tensors: dict[str, torch.Tensor], folder: Path, trust_remote_code: bool = False
) -> Any:
    """Make the model that transformers would load, had the tensors been written.

    Its weights are the tensors themselves where their dtype is that of the config.
    Returns None where transformers has no such model of its own.

    Args:
        tensors: of the model, by their names.
        folder: with config.json and all that goes with it, but for the tensors.

    Raises:
        Exception: whatever transformers raises.
    """
    with quiet(), quietly():
        config = _read_config(folder, trust_remote_code)
        kind = _class_of(config)
        if kind is None:
            return None
        model = kind.from_pretrained(None, config=config, state_dict=tensors)
        model.config.name_or_path = model.name_or_path = str(folder)
        if model.can_generate() and (folder / _GENERATION).is_file():
            read = transformers.GenerationConfig.from_pretrained(folder)
            model.generation_config = read
    return model


def read_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer that is in a folder; None if there is none.

    Raises:
        Exception: whatever transformers raises.
    """
    if not (folder / _TOKENIZER).is_file():
        return None
    with quiet(), quietly():
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code
        )


def _read_config(folder: Path, trust_remote_code: bool) -> Any:
    return transformers.AutoConfig.from_pretrained(
        folder, trust_remote_code=trust_remote_code
    )


def _class_of(config: Any) -> Any:
    """Return the class of transformers that a config names, None if it has none."""
    return getattr(transformers, config.architectures[0], None)
