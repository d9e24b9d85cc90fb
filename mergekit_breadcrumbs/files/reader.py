"""Reading breadcrumb files.

Everything that can be told without reading what is stored is checked when a file is
opened; positions are checked as they are read, and the base against its checksum.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from pydantic import ValidationError

from mergekit_breadcrumbs.core.positions import DamagedPositionsError, Positions
from mergekit_breadcrumbs.core.stored import Stored
from mergekit_breadcrumbs.files.manifest import (
    NAME,
    NOTICE,
    VERSION,
    Manifest,
    StoredTensor,
    key,
)
from mergekit_breadcrumbs.files.shards import DamagedFileError, Header, Shards
from mergekit_breadcrumbs.wording import shortened

_PARTS = {"counts": torch.int32, "bits": torch.uint8, "low": torch.uint8}
_MOST_OF_A_MARK = 1000  # bytes
_MOST_MANIFEST = 1 << 28  # bytes; a model of 100,000 tensors has 30 MB


def is_breadcrumb_file(directory: str | Path) -> bool:
    """Whether a folder is a breadcrumb file, damaged or not.

    Example:
        >>> is_breadcrumb_file(os.curdir)
        False
    """
    if os.path.isfile(os.path.join(directory, NAME)):
        return True
    marked = Path(directory, "adapter_config.json")
    try:
        if marked.is_file():
            with marked.open("rb") as stream:
                return NOTICE.encode() in stream.read(_MOST_OF_A_MARK)
    except (OSError, ValueError):  # told where the adapter is read
        pass
    return False


def read_manifest(directory: str | Path) -> Manifest:
    """Return what a breadcrumb file says of itself.

    Raises:
        DamagedFileError: if it is no manifest, or of another version.
    """
    path = Path(directory, NAME)
    try:
        if path.stat().st_size > _MOST_MANIFEST:
            raise DamagedFileError(f"{path} is too large for a manifest")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(
            f"{path} cannot be read: {shortened(str(error))}"
        ) from error
    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise DamagedFileError(
            f"{path} is of version {version}, and this package reads version"
            f" {VERSION}: install a newer mergekit-breadcrumbs"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DamagedFileError(f"{path}: {where}: {first['msg']}") from error


class BreadcrumbFile:
    """A breadcrumb file, opened.

    Args:
        directory: the folder.
        added_to: what to call the base that it is used with, in errors.

    Raises:
        DamagedFileError: if something is missing, or of another shape or dtype than the
            manifest says.
    """

    def __init__(self, directory: str | Path, added_to: str = "its base") -> None:
        self.directory, self.added_to = Path(directory), added_to
        self.name = str(directory)
        self.manifest = read_manifest(directory)
        self._shards = Shards(self.directory)
        for name in self.manifest.tensors:
            self._check(name)
        for name in self.manifest.whole:
            self._header(key(name, "whole"), name)

    def names(self) -> list[str]:
        """Return the names of all tensors of the model that this and its base make."""
        return [*self.manifest.tensors, *self.manifest.whole]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of that model."""
        if name in self.manifest.tensors:
            return self.manifest.tensors[name].shape
        return self._header(key(name, "whole"), name)[0]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor of that model."""
        entry = self.manifest.tensors.get(name)
        if entry is None:
            return self._header(key(name, "whole"), name)[1]
        if not entry.stored:
            return torch_dtype(entry.base_dtype)
        values = self._header(key(name, "values"), name)[1]
        if self.manifest.is_lossless:
            return values
        return torch.promote_types(torch_dtype(entry.base_dtype), values)

    def shard(self, name: str) -> str:
        """Return the name of the file that holds a tensor, or what is stored of it."""
        part = "values" if name in self.manifest.tensors else "whole"
        return self._shards.shard_of.get(key(name, part), NAME)

    def bytes_of(self, name: str) -> int:
        """Return how many bytes are stored of a tensor."""
        parts = ("values", *_PARTS) if name in self.manifest.tensors else ("whole",)
        found = (self._shards.headers.get(key(name, part)) for part in parts)
        return sum(
            math.prod(shape) * dtype.itemsize for shape, dtype in filter(None, found)
        )

    def whole(self, name: str) -> torch.Tensor:
        """Return a tensor that the base does not have."""
        return self._shards.read(key(name, "whole"))

    def stored(self, name: str) -> Stored:
        """Return what is stored of a tensor.

        Raises:
            ValueError: naming file and tensor, if it is damaged.
        """
        entry = self.manifest.tensors[name]
        parts = {part: torch.empty(0, dtype=kind) for part, kind in _PARTS.items()}
        values = torch.empty(0, dtype=torch_dtype(entry.base_dtype))
        if entry.stored:
            parts = {part: self._shards.read(key(name, part)) for part in _PARTS}
            values = self._shards.read(key(name, "values"))
        return self._stored(name, entry, parts, values)

    def _stored(
        self,
        name: str,
        entry: StoredTensor,
        parts: dict[str, torch.Tensor],
        values: torch.Tensor,
    ) -> Stored:
        elements = torch.Size(entry.shape).numel()
        try:
            if entry.stored:
                positions = Positions(elements, entry.low_bits, **parts)
            else:
                positions = Positions.none(elements)
            if positions.stored != entry.stored:
                raise DamagedPositionsError(
                    f"the manifest says that {entry.stored} elements are stored, and"
                    f" {positions.stored} are counted"
                )
        except DamagedPositionsError as error:
            raise self._damaged(name, error) from error
        norm = float("nan") if entry.norm is None else entry.norm
        return Stored(
            shape=entry.shape,
            positions=positions,
            values=values,
            base_dtype=torch_dtype(entry.base_dtype),
            ranked_in=entry.ranked_in and torch_dtype(entry.ranked_in),
            fraction=self.manifest.fraction,
            granularity=self.manifest.granularity,
            norm=norm,
            norm_scale=entry.norm_scale,
            checksum=entry.checksum,
            tensor=name,
            file=self.name,
            made_from=self.manifest.base.model,
            added_to=self.added_to,
        )

    def _check(self, name: str) -> None:
        entry = self.manifest.tensors[name]
        for called in filter(None, (entry.base_dtype, entry.ranked_in)):
            if not isinstance(getattr(torch, called, None), torch.dtype):
                raise self._damaged(name, f"there is no dtype {called}")
        if not entry.stored:
            return
        for part, kind in _PARTS.items():
            shape, dtype = self._header(key(name, part), name)
            if len(shape) != 1 or dtype != kind:
                raise self._damaged(name, f"{part} is {dtype} {list(shape)}")
        shape, dtype = self._header(key(name, "values"), name)
        if shape != (entry.stored,):
            raise self._damaged(
                name, f"values is {list(shape)}, and the manifest says {entry.stored}"
            )
        if entry.ranked_in:
            fits = dtype.is_floating_point
        else:
            fits = dtype == torch_dtype(entry.base_dtype)
        if not fits:
            raise self._damaged(name, f"values is {dtype}, on a {entry.base_dtype}")

    def _header(self, part: str, name: str) -> Header:
        if part not in self._shards.headers:
            raise self._damaged(name, f"there is no {part}")
        return self._shards.headers[part]

    def _damaged(self, name: str, why: object) -> DamagedFileError:
        return DamagedFileError(f"{self.name} is damaged, tensor {name}: {why}")


def torch_dtype(name: str) -> torch.dtype:
    """Return the dtype that PyTorch calls by this name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
