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
from mergekit.io.lazy_unpickle import DeferredLoad
from mergekit.io.loader import LazyPickleLoader
from safetensors import safe_open

from mergekit_breadcrumbs.check.attempt import attempt, first_line
from mergekit_breadcrumbs.check.files import fault_of_file

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = dict[str, Shape]

_PICKLED = "pytorch_model.bin"
_WEIGHTS = ("model.safetensors", _PICKLED)


def read_index(
    directory: str, lazy_unpickle: bool = False
) -> tuple[ShardedTensorIndex | None, Shapes, str]:
    """Read what a model directory holds, and see that every file of it is there.

    Pickles are read as mergekit does with `lazy_unpickle`, which takes fewer of them.

    Returns:
        mergekit's index, None where the weights cannot be read; every tensor's shape;
        and what is wrong, empty if nothing is.
    """
    shapes: Shapes = {}
    index, fault = _find_index(directory, shapes, lazy_unpickle)
    if index is None:
        return None, {}, fault
    for shard in () if shapes else index.shards:
        path = Path(directory, str(shard.filename))
        if not os.path.exists(path):  # for any name that an index may hold
            return None, {}, f"there is no {shard.filename}"
        fault = _read_file(path, shapes, lazy_unpickle)
        if fault:
            break
    return (None, {}, fault) if fault else (index, shapes, "")


def _find_index(
    directory: str, shapes: Shapes, lazy_unpickle: bool
) -> tuple[ShardedTensorIndex | None, str]:
    """Return mergekit's index, without reading all of a pickled file for it."""
    names, _ = attempt(os.listdir, directory)
    if [name for name in names or () if name.startswith(_WEIGHTS)] == [_PICKLED]:
        fault = _read_file(Path(directory, _PICKLED), shapes, lazy_unpickle)
        paths = dict.fromkeys(shapes, _PICKLED)
        shards = [ShardInfo(_PICKLED, list(shapes))]
        return ShardedTensorIndex(directory, False, paths, shards), fault
    index, error = attempt(ShardedTensorIndex.from_disk, directory)
    return index, "" if error is None else first_line(error)


def _read_file(path: Path, shapes: Shapes, lazy_unpickle: bool) -> str:
    """Add the shapes in a file, of the kind that its name says; or say what is wrong.

    An index may name anything, a named pipe too, which would be read for ever.
    """
    if fault := fault_of_file(path):
        return f"{path.name} {fault}"
    if path.name.lower().endswith(".safetensors"):
        return _read_header(path, shapes)
    return (_read_lazily if lazy_unpickle else _read_pickle)(path, shapes)


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
    if error is not None and "mmap can only be used" in str(error):
        # Written by torch before 1.6; such a file has no index of its numbers.
        state, error = attempt(torch.load, path, map_location="meta", weights_only=True)
    if error is not None:
        return f"{path.name}: {first_line(error)}"
    nested = False
    if isinstance(state, dict) and "state_dict" in state:
        nested, state = True, state["state_dict"]
    if not isinstance(state, dict):
        return f"{path.name} holds no state dict, but a {type(state).__name__}"
    if nested:
        return (
            f"{path.name} holds its tensors inside of state_dict, where mergekit lists"
            " them and does not find them: save what is under state_dict alone"
        )
    shapes |= {
        name: tuple(value.shape)
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return ""


def _read_lazily(path: Path, shapes: Shapes) -> str:
    loader, error = attempt(LazyPickleLoader, str(path))
    if loader is None:
        why = first_line(error) if error else ""
        return f"{path.name} cannot be read with --lazy-unpickle: {why}"
    if not isinstance(loader.index, dict) or "state_dict" in loader.index:
        return f"{path.name} holds no state dict that --lazy-unpickle can read"
    shapes |= {
        name: tuple(value.shape or ())
        for name, value in loader.index.items()
        if isinstance(value, DeferredLoad)
    }
    return ""
