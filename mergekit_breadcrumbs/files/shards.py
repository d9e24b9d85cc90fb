"""The tensors of a breadcrumb file, in one file or in several with an index."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mergekit_breadcrumbs.files.manifest import STEM
from mergekit_breadcrumbs.wording import shortened

_SINGLE = f"{STEM}.safetensors"
_INDEX = f"{_SINGLE}.index.json"

# As safetensors calls them in its headers.
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}

Header = tuple[tuple[int, ...], torch.dtype]


class DamagedFileError(ValueError):
    """A breadcrumb file that cannot be read, or not by this version."""


class Shards:
    """All tensors of a folder: shapes and dtypes in `headers`, files in `shard_of`.

    Raises:
        DamagedFileError: if a file is missing or damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened = {name: self._open(name) for name in self._names()}
        self.shard_of = {
            part: name
            for name, shard in self._opened.items()
            for part in shard.keys()  # noqa: SIM118  # not a mapping
        }
        self.headers: dict[str, Header] = dict(self._read_headers())

    def read(self, part: str) -> torch.Tensor:
        """Return a tensor.

        Raises:
            DamagedFileError: if it cannot be read.
        """
        try:
            tensor: torch.Tensor = self._opened[self.shard_of[part]].get_tensor(part)
        except (SafetensorError, OSError) as error:
            raise self._cannot_be_read(self.shard_of[part], error) from error
        return tensor

    def _names(self) -> list[str]:
        try:
            content = json.loads((self._directory / _INDEX).read_bytes())
            return sorted({str(name) for name in content["weight_map"].values()})
        except FileNotFoundError:
            # Where nothing is stored, there is nothing to read either.
            return [_SINGLE] if (self._directory / _SINGLE).exists() else []
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._cannot_be_read(_INDEX, error) from error
        except RecursionError as error:
            raise self._cannot_be_read(_INDEX, error) from error

    def _open(self, name: str) -> Any:
        if os.path.basename(name) != name:  # an index may name any file
            raise DamagedFileError(f"{self._directory / _INDEX} names {name!r}")
        path = self._directory / name
        if not path.is_file():
            raise DamagedFileError(
                f"{self._directory} is not complete: there is no {name}"
            )
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise self._cannot_be_read(name, error) from error

    def _read_headers(self) -> Iterator[tuple[str, Header]]:
        for part, name in self.shard_of.items():
            header = self._opened[name].get_slice(part)
            dtype = _DTYPES.get(header.get_dtype())
            if dtype is not None:
                yield part, (tuple(header.get_shape()), dtype)

    def _cannot_be_read(self, name: str, error: Exception) -> DamagedFileError:
        why = shortened(str(error)) or type(error).__name__
        return DamagedFileError(f"{self._directory / name} cannot be read: {why}")
