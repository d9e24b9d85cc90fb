"""Where mergekit keeps a model that it has merged with a LoRA adapter."""

from __future__ import annotations

from pathlib import Path

from mergekit.common import ModelReference


def adapted_directory(model: ModelReference, cache: str) -> Path:
    """Return the directory in `--lora-merge-cache` for a model and its adapter."""
    names = (path._unique_id() for path in (model.model, model.lora))
    return Path(cache, "_".join(names))
