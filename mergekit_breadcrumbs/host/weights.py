"""A model's tensors by name, shape and dtype, from its index and the files' headers.

safetensors checks its headers; nobody checks an index or a pickle, so that anything may
stand in them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mergekit.io.lazy_tensor_loader import ShardedTensorIndex, ShardInfo
from mergekit.io.lazy_unpickle import DeferredLoad
from mergekit.io.loader import LazyPickleLoader
from safetensors import safe_open

from mergekit_breadcrumbs.host.attempt import attempt, first_line
from mergekit_breadcrumbs.host.files import fault_of_file
from mergekit_breadcrumbs.host.lookup import Shape
from mergekit_breadcrumbs.wording import listed

_PICKLED = "pytorch_model.bin"
_WEIGHTS = ("model.safetensors", _PICKLED)


@dataclass
class Weights:
    """What a model directory holds, or in `fault` why that cannot be told.

    `index` is mergekit's; `shapes` and `dtypes` are those of all tensors in its files,
    whether the index lists them or not. A dtype is named as in the files.
    """

    index: ShardedTensorIndex | None = None
    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    fault: str = ""

    def add(self, name: str, shape: Shape, dtype: str) -> None:
        """Add a tensor."""
        self.shapes[name], self.dtypes[name] = shape, dtype


def read_weights(directory: str, lazy_unpickle: bool = False) -> Weights:
    """Read what a model directory holds, and see that every file of it is there.

    Pickles are read as mergekit does with `lazy_unpickle`, which takes fewer of them.
    """
    weights = Weights()
    index = _find_index(directory, weights, lazy_unpickle)
    if index is None or weights.fault:
        return Weights(fault=weights.fault)
    for shard in () if weights.shapes else index.shards:
        path = Path(directory, str(shard.filename))
        if not os.path.exists(path):  # for any name that an index may hold
            return Weights(fault=f"there is no {shard.filename}")
        held = Weights()
        _read_file(path, held, lazy_unpickle)
        lacking = [key for key in shard.contained_keys if key not in held.shapes]
        if lacking and not held.fault:
            held.fault = (
                f"the index looks for {listed(lacking)} in {shard.filename}, which does"
                " not have it"
            )
        if held.fault:
            return Weights(fault=held.fault)
        weights.shapes |= held.shapes
        weights.dtypes |= held.dtypes
    weights.index = index
    return weights


def rival_weights(directory: str) -> tuple[str, str] | None:
    """Return an index that mergekit reads and a file that transformers reads.

    None where both read the same.
    """
    for single in _WEIGHTS:
        index = f"{single}.index.json"
        both = [os.path.exists(os.path.join(directory, f)) for f in (single, index)]
        if any(both):
            return (index, single) if all(both) else None
    return None


def _find_index(
    directory: str, weights: Weights, lazy_unpickle: bool
) -> ShardedTensorIndex | None:
    """Return mergekit's index, without reading all of a pickled file for it."""
    names, _ = attempt(os.listdir, directory)
    if [name for name in names or () if name.startswith(_WEIGHTS)] == [_PICKLED]:
        _read_file(Path(directory, _PICKLED), weights, lazy_unpickle)
        paths = dict.fromkeys(weights.shapes, _PICKLED)
        shards = [ShardInfo(_PICKLED, list(weights.shapes))]
        return ShardedTensorIndex(directory, False, paths, shards)
    index, error = attempt(ShardedTensorIndex.from_disk, directory)
    weights.fault = "" if error is None else first_line(error)
    return index


def _read_file(path: Path, weights: Weights, lazy_unpickle: bool) -> None:
    """Add the tensors in a file, of the kind that its name says; or say what is wrong.

    An index may name anything, a named pipe too, which would be read for ever.
    """
    if fault := fault_of_file(path):
        weights.fault = f"{path.name} {fault}"
    elif path.name.lower().endswith(".safetensors"):
        _read_header(path, weights)
    else:
        (_read_lazily if lazy_unpickle else _read_pickle)(path, weights)


def _read_header(path: Path, weights: Weights) -> None:
    tensors: Any
    tensors, error = attempt(safe_open, path, framework="np")
    if tensors is None:
        weights.fault = f"{path.name}: {error}"
        return
    with tensors:
        for name in tensors.keys():  # noqa: SIM118  # not a mapping
            header = tensors.get_slice(name)
            weights.add(name, tuple(header.get_shape()), header.get_dtype())


def _read_pickle(path: Path, weights: Weights) -> None:
    # Mapped into memory, and to no device: only the pickle is read, not the numbers.
    state, error = attempt(
        torch.load, path, map_location="meta", mmap=True, weights_only=True
    )
    if error is not None and "mmap can only be used" in str(error):
        # Written by torch before 1.6; such a file has no index of its numbers.
        state, error = attempt(torch.load, path, map_location="meta", weights_only=True)
    if error is not None:
        weights.fault = f"{path.name}: {first_line(error)}"
        return
    nested = False
    if isinstance(state, dict) and "state_dict" in state:
        nested, state = True, state["state_dict"]
    if not isinstance(state, dict):
        kind = type(state).__name__
        weights.fault = f"{path.name} holds no state dict, but a {kind}"
        return
    if nested:
        weights.fault = (
            f"{path.name} holds its tensors inside of state_dict, where mergekit lists"
            " them and does not find them: save what is under state_dict alone"
        )
        return
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            weights.add(name, tuple(value.shape), dtype)


def _read_lazily(path: Path, weights: Weights) -> None:
    loader, error = attempt(LazyPickleLoader, str(path))
    if loader is None:
        why = first_line(error) if error else ""
        weights.fault = f"{path.name} cannot be read with --lazy-unpickle: {why}"
        return
    if not isinstance(loader.index, dict) or "state_dict" in loader.index:
        weights.fault = f"{path.name} holds no state dict that --lazy-unpickle can read"
        return
    for name, value in loader.index.items():
        if isinstance(value, DeferredLoad):
            dtype = str(value.dtype).removeprefix("torch.")
            weights.add(name, tuple(value.shape or ()), dtype)
