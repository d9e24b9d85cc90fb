"""How many bytes a merge writes, and how many it holds in memory, before it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.layout import OutputSlice
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.tensors import checkpoints_of
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.lookup import Shape
from mergekit_breadcrumbs.host.losses import Checkpoints, is_skipped
from mergekit_breadcrumbs.host.planner import PlannedTensor

INTERPRETER = 350_000_000
"""What mergekit-yaml takes with torch and transformers imported, and no tensor read."""
# What our methods take beside a tensor's inputs and its result, as docs/speed.md says.
_WORKSPACE = 64 * 2**20


class Forecast(NamedTuple):
    """What a merge writes and takes, in bytes.

    `files` are the names of the weights that it writes. `memory` is what nothing else
    can use meanwhile; `mapped` are pages of files, which the system takes back at need.
    """

    written: int
    files: list[str]
    memory: int
    mapped: int


class _Tensor(NamedTuple):
    """One tensor of the merged model: its bytes, and those of merging it."""

    name: str
    written: int
    working: int


def forecast(
    outputs: list[OutputSlice],
    models: Mapping[ModelReference, ModelFiles],
    config: MergeConfiguration,
    options: MergeOptions,
) -> Forecast | None:
    """Return what a merge will write and take, None if a tensor's shape is not known.

    Vocabularies that mergekit aligns are taken to be as large as the base's, or as the
    largest one for a union.
    """
    checkpoints = checkpoints_of(models)
    sizer = _Sizer(models, checkpoints, config, options)
    tensors: list[_Tensor] = []
    for output in outputs:
        for planned in output.tensors:
            if is_skipped(planned, checkpoints):
                continue
            tensor = sizer.tensor(planned, output)
            if tensor is not None:
                tensors.append(tensor)
            elif not planned.weight.optional:
                return None
    if not tensors:
        return None
    shards, peak = _write_out(tensors, options.out_shard_size)
    return Forecast(
        sum(tensor.written for tensor in tensors),
        _file_names(shards, options.safe_serialization),
        INTERPRETER + _WORKSPACE + peak + _open_files(models, options, pickled=True),
        _open_files(models, options, pickled=False),
    )


def weight_files(files: ModelFiles) -> dict[str, int]:
    """Return the files of weights that are read of a model, and their sizes."""
    index = files.weights.index
    if files.hub is not None and files.hub.pickled:
        sizes = files.hub.sizes
        return {n: s for n, s in sizes.items() if n.endswith(".bin") and s is not None}
    if index is None:
        return {}
    paths = [Path(index.base_path, shard.filename) for shard in index.shards]
    return {path.name: path.stat().st_size for path in paths if path.is_file()}


def _open_files(
    models: Mapping[ModelReference, ModelFiles], options: MergeOptions, *, pickled: bool
) -> int:
    """Return how much is kept of files that are being read: the largest of each model.

    Pickled ones are held in memory, unless they are unpickled lazily; others are only
    mapped into it.
    """
    if pickled and options.lazy_unpickle:
        return 0
    total = 0
    for files in models.values():
        sizes = weight_files(files).items()
        total += max((s for n, s in sizes if n.endswith(".bin") is pickled), default=0)
    return total


@dataclass
class _Sizer:
    """Knows the sizes of tensors in the files, in the merge and in the output."""

    models: Mapping[ModelReference, ModelFiles]
    checkpoints: Checkpoints
    config: MergeConfiguration
    options: MergeOptions
    seen: set[str] = field(default_factory=set)

    def tensor(self, planned: PlannedTensor, output: OutputSlice) -> _Tensor | None:
        found = {
            model: known
            for model in dict.fromkeys(
                (output.base, *(source.model for source in output.sources))
            )
            if model is not None and (known := self._find(planned, model)) is not None
        }
        if not found:
            return None
        shape, own = next(iter(found.values()))
        weight, vocabulary = planned.weight, planned.weight.vocabulary_axis
        aligned = vocabulary is not None and self._aligned
        if aligned and vocabulary is not None:
            shapes = [other for other, _ in found.values()]
            shape = self._aligned_shape(shapes, vocabulary)
        merged = _width(weight.force_dtype or self.config.dtype) or own
        written = _width(weight.force_dtype or self.config.out_dtype) or merged
        elements = math.prod(shape)
        copied = [w for _, w in found.values() if w != merged or aligned]
        working = elements * merged * (1 + len(copied))
        working += elements * written if written != merged else 0
        return _Tensor(weight.name, elements * written, working)

    def _find(
        self, planned: PlannedTensor, model: ModelReference
    ) -> tuple[Shape, int] | None:
        """Return a tensor's shape in a model, and how many bytes an element has."""
        if model not in self.checkpoints:
            return None
        found = self.checkpoints[model].lookup.find(planned.called_in(model))
        if found is None or found.shape is None:
            return None
        dtypes = self.models[model].weights.dtypes
        widths = [_bits(dtypes[name]) // 8 for name in found.names if name in dtypes]
        return found.shape, max(widths, default=2)

    @property
    def _aligned(self) -> bool:
        config = self.config
        aligned = config.tokenizer or config.tokenizer_source
        return bool(aligned or self.options.unsafe_truncate_embeddings)

    def _aligned_shape(self, shapes: list[Shape], axis: int) -> Shape:
        rows = [shape[axis] for shape in shapes if len(shape) > axis]
        tokenizer = self.config.tokenizer
        source = tokenizer.source if tokenizer else self.config.tokenizer_source
        size = rows[0] if rows else 0
        if source is None or source == "union":
            size = (max if source else min)(rows, default=0)
        multiple = (tokenizer.pad_to_multiple_of if tokenizer else None) or 1
        size = -(-size // multiple) * multiple
        return (*shapes[0][:axis], size, *shapes[0][axis + 1 :])


def _width(dtype: str | None) -> int:
    """Return the bytes of an element of a dtype as configs name it, 0 for none."""
    found, _ = attempt(dtype_from_name, dtype)
    return int(found.itemsize) if found is not None else 0


def _bits(dtype: str) -> int:
    """Return the bits of an element of a dtype as files name it."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8


def _write_out(tensors: Iterable[_Tensor], shard_size: int) -> tuple[int, int]:
    """Return how many shards mergekit makes, and the most that it holds at a time.

    It goes by the tensors' names, and writes a shard when it is full.
    """
    shards, held, peak = 1, 0, 0
    for tensor in sorted(tensors):
        peak = max(peak, held + tensor.working)
        if held and held + tensor.written > shard_size > 0:
            shards, held = shards + 1, 0
        held += tensor.written
        peak = max(peak, held)
    return shards, peak


def _file_names(shards: int, safe: bool) -> list[str]:
    stem, suffix = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    if shards == 1:
        return [f"{stem}.{suffix}"]
    names = [f"{stem}-{n:05d}-of-{shards:05d}.{suffix}" for n in range(1, shards + 1)]
    return [*names, f"{stem}.{suffix}.index.json"]
