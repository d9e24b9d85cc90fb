"""The names and shapes of a model's tensors, from its index and the files' headers.

safetensors checks its headers; nobody checks an index or a pickle, so that anything may
stand in them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import torch
from mergekit.io.lazy_tensor_loader import ShardedTensorIndex, ShardInfo
from safetensors import safe_open

from mergekit_breadcrumbs.check.attempt import attempt, first_line

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = dict[str, Shape]

_PICKLED = "pytorch_model.bin"
_WEIGHTS = ("model.safetensors", _PICKLED)


def read_index(directory: str) -> tuple[ShardedTensorIndex | None, Shapes, str]:
    """Read what a model directory holds, and see that every file of it is there.

    Returns:
        mergekit's index, None where the weights cannot be read; every tensor's shape;
        and what is wrong, empty if nothing is.
    """
    shapes: Shapes = {}
    index, fault = _find_index(directory, shapes)
    if index is None:
        return None, {}, fault
    for shard in () if shapes else index.shards:
        path = Path(directory, str(shard.filename))
        if not os.path.exists(path):  # for any name that an index may hold
            return None, {}, f"there is no {shard.filename}"
        fault = (_read_header if index.is_safetensors else _read_pickle)(path, shapes)
        if fault:
            break
    return (None, {}, fault) if fault else (index, shapes, "")


def _find_index(
    directory: str, shapes: Shapes
) -> tuple[ShardedTensorIndex | None, str]:
    """Return mergekit's index, without reading all of a pickled file for it."""
    names, _ = attempt(os.listdir, directory)
    if [name for name in names or () if name.startswith(_WEIGHTS)] == [_PICKLED]:
        fault = _read_pickle(Path(directory, _PICKLED), shapes)
        paths = dict.fromkeys(shapes, _PICKLED)
        shards = [ShardInfo(_PICKLED, list(shapes))]
        return ShardedTensorIndex(directory, False, paths, shards), fault
    index, error = attempt(ShardedTensorIndex.from_disk, directory)
    return index, "" if error is None else first_line(error)


def _read_header(path: Path, shapes: Shapes) -> str:
    tensors: Any
    tensors, error = attempt(safe_open, path, framework="np")
    if tensors is None:
        return f"{path.name}: {error}"
    with tensors:
        for name in tensors.keys():  # noqa: SIM118  # not a mapping
            shapes[name] = tuple(tensors.get_slice(name).get_shape())
    return ""


def _read_pickle(path: Path, shapes: Shapes) -> str:
    # Mapped into memory, and to no device: only the pickle is read, not the numbers.
    state, error = attempt(
        torch.load, path, map_location="meta", mmap=True, weights_only=True
    )
    if error is not None:
        return first_line(error)
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict):
        return f"{path.name} holds no state dict, but a {type(state).__name__}"
    shapes |= {
        name: tuple(value.shape)
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return ""
