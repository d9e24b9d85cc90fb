"""Where mergekit keeps a model that it has merged with its LoRA adapter."""

from __future__ import annotations

from pathlib import Path

from mergekit.common import ModelReference


def merged_folder(model: ModelReference, cache: str) -> Path:
    """Return the folder of a model with an adapter, whether it is there or not.

    Its name comes from the paths as they are written. mergekit merges only if there is
    no such folder, and looks at nothing in it otherwise.
    """
    return Path(cache, f"{model.model._unique_id()}_{model.lora._unique_id()}")
