"""Making a breadcrumb file, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
import tqdm
from mergekit.io.tensor_writer import TensorWriter
from mergekit.options import MergeOptions
from safetensors import SafetensorError

from mergekit_breadcrumbs.core.selection import Granularity
from mergekit_breadcrumbs.extract.card import adapter_config, model_card
from mergekit_breadcrumbs.extract.select import Selected, select
from mergekit_breadcrumbs.extract.sources import Checkpoint, SourceError
from mergekit_breadcrumbs.extract.write import require_free, written_aside
from mergekit_breadcrumbs.files.manifest import (
    NAME,
    STEM,
    FloatName,
    Manifest,
    StoredTensor,
    key,
)
from mergekit_breadcrumbs.wording import listed

SHARD = 1_000_000_000
"""Bytes that are held in memory before they are written."""


@dataclass
class Extracted:
    """What was made.

    `elements` are those of all tensors that both models have; of these `changed` differ
    and `stored` are in the file. The squares are sums over task vectors.
    """

    manifest: Manifest
    checkpoint_bytes: int = 0
    file_bytes: int = 0
    elements: int = 0
    changed: int = 0
    stored: int = 0
    square: float = 0.0
    stored_square: float = 0.0
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """What is asked for; see the command `extract`."""

    base: str
    finetuned: str
    out_dir: Path
    fraction: float = 0.2
    granularity: Granularity = "tensor"
    dtype: FloatName | None = None
    force: bool = False


def extract(request: Request, options: MergeOptions) -> Extracted:
    """Write a breadcrumb file.

    Raises:
        ValueError: with a sentence, if the models do not go together or cannot be read,
            or the folder cannot be written to. Nothing is left of what was begun.
        OSError: if the disk is full, say.
    """
    require_free(request.out_dir, force=request.force)
    if "+" in request.base:
        raise SourceError(f"the base must have no adapter; got {request.base}")
    base = Checkpoint(request.base, options)
    finetuned = Checkpoint(request.finetuned, options)
    rows = _common_rows(base, finetuned)
    made = Extracted(manifest=None)  # type: ignore[arg-type]  # known at the end
    made.remarks += _remarks(base, finetuned, rows)
    try:
        with written_aside(request.out_dir, force=request.force) as folder:
            _write(folder, request, base, finetuned, made, quiet=options.quiet)
            made.file_bytes = sum(file.stat().st_size for file in folder.iterdir())
    except SafetensorError as error:  # a full disk, with the system's own words
        raise OSError(f"{request.out_dir} cannot be written: {error}") from error
    return made


def _write(
    folder: Path,
    request: Request,
    base: Checkpoint,
    finetuned: Checkpoint,
    made: Extracted,
    *,
    quiet: bool,
) -> None:
    writer = TensorWriter(str(folder), SHARD, override_basename=STEM)
    tensors, whole = {}, []
    for name in _in_order(base, finetuned, quiet):
        tensor = finetuned.read(name)
        made.checkpoint_bytes += tensor.numel() * tensor.element_size()
        if name not in base.shapes:
            whole.append(name)
            writer.save_tensor(key(name, "whole"), tensor.clone())
            continue
        own = base.read(name)
        chosen = select(
            own,
            _fitted(tensor, own),
            fraction=request.fraction,
            granularity=request.granularity,
            dtype=request.dtype and getattr(torch, request.dtype),
            names=(request.finetuned, name),
        )
        tensors[name] = _entry(own, chosen)
        if chosen.positions.stored:
            for part in ("counts", "bits", "low"):
                writer.save_tensor(key(name, part), getattr(chosen.positions, part))
            writer.save_tensor(key(name, "values"), chosen.values)
        _add_up(made, own.numel(), chosen)
    writer.finalize()
    made.manifest = Manifest(
        written_by=f"mergekit-breadcrumbs {version('mergekit-breadcrumbs')}",
        fraction=request.fraction,
        granularity=request.granularity,
        base=base.source(),
        finetuned=finetuned.source(),
        tensors=tensors,
        whole=tuple(whole),
    )
    text = made.manifest.model_dump_json(indent=1, exclude_none=True)
    (folder / NAME).write_text(f"{text}\n", encoding="utf-8")
    card = model_card(made.manifest, request.out_dir.name)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "adapter_config.json").write_text(adapter_config(), encoding="utf-8")


def _in_order(base: Checkpoint, finetuned: Checkpoint, quiet: bool) -> Iterator[str]:
    """Yield the names of all tensors, those of one shard together, with progress."""

    def place(name: str) -> tuple[str, str, str]:
        return str(finetuned.paths[name]), str(base.paths.get(name, "")), name

    sizes = {name: math.prod(shape) for name, shape in finetuned.shapes.items()}
    with tqdm.tqdm(
        total=sum(sizes.values()), unit="el", unit_scale=True, disable=quiet
    ) as progress:
        for name in sorted(finetuned.shapes, key=place):
            yield name
            progress.update(sizes[name])


def _entry(base: torch.Tensor, chosen: Selected) -> StoredTensor:
    entry = {
        "shape": tuple(base.shape),
        "base_dtype": _name(base.dtype),
        "ranked_in": None if chosen.ranked_in is None else _name(chosen.ranked_in),
        "stored": chosen.positions.stored,
        "low_bits": chosen.positions.low_bits,
        "norm": chosen.norm,
        "norm_scale": chosen.norm_scale,
        "checksum": chosen.checksum,
    }
    return StoredTensor.model_validate(entry)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _add_up(made: Extracted, elements: int, chosen: Selected) -> None:
    made.elements += elements
    made.changed += chosen.changed
    made.stored += chosen.positions.stored
    made.square += chosen.square
    made.stored_square += chosen.stored_square


def _common_rows(base: Checkpoint, finetuned: Checkpoint) -> tuple[int, int] | None:
    """Return how many rows the two have where their vocabularies differ.

    Raises:
        SourceError: if they differ otherwise, or have nothing in common.
    """
    common = [name for name in finetuned.shapes if name in base.shapes]
    if not common:
        raise SourceError(
            f"{base.name} and {finetuned.name} have no tensor in common, such as"
            f" {next(iter(finetuned.shapes), 'none')}"
        )
    pairs = {n: (base.shapes[n], finetuned.shapes[n]) for n in common}
    unlike = {n: pair for n, pair in pairs.items() if pair[0] != pair[1]}
    for name, (own, other) in unlike.items():
        first = next(iter(unlike.values()))
        rows = own[:1] + other[:1] == first[0][:1] + first[1][:1]
        if not (own and other and own[1:] == other[1:] and rows):
            raise SourceError(
                f"{finetuned.name} is no fine-tuning of {base.name}: {name} is"
                f" {list(other)} and not {list(own)}"
            )
    return next(((own[0], other[0]) for own, other in unlike.values()), None)


def _fitted(tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return a tensor with the base's rows, those that it lacks from the base."""
    if tensor.shape == base.shape:
        return tensor
    rows = min(len(tensor), len(base))
    return torch.cat([tensor[:rows], base[rows:].to(tensor.dtype)])


def _remarks(
    base: Checkpoint, finetuned: Checkpoint, rows: tuple[int, int] | None
) -> list[str]:
    remarks = []
    if rows is not None and rows[1] > rows[0]:
        remarks.append(
            f"the vocabulary of {finetuned.name} has {rows[1]} rows, and the base's"
            f" {rows[0]}: the added rows are left out, and the base's tokenizer is used"
        )
    elif rows is not None:
        remarks.append(
            f"the vocabulary of {finetuned.name} has {rows[1]} rows, and the base's"
            f" {rows[0]}: the others stay as in the base"
        )
    if added := sorted(finetuned.shapes.keys() - base.shapes.keys()):
        remarks.append(f"stored whole, because the base lacks them: {listed(added)}")
    if lacking := sorted(base.shapes.keys() - finetuned.shapes.keys()):
        remarks.append(f"{finetuned.name} lacks, of the base: {listed(lacking)}")
    return remarks
