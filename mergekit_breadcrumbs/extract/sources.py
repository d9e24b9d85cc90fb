"""The two models that a breadcrumb file is made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.core.keys import bits_of
from mergekit_breadcrumbs.core.stored import SAMPLED
from mergekit_breadcrumbs.files.manifest import Source
from mergekit_breadcrumbs.host.attempt import attempt, first_line
from mergekit_breadcrumbs.host.overlay import ordinary
from mergekit_breadcrumbs.host.references import FileLoader
from mergekit_breadcrumbs.host.weights import read_weights


class SourceError(ValueError):
    """A model that no breadcrumb file can be made from."""


class Checkpoint:
    """A model, opened by mergekit: a folder, a name on the hub, with an adapter or not.

    Args:
        name: as in a config.
        options: mergekit's.

    Raises:
        SourceError: if it cannot be read.
    """

    def __init__(self, name: str, options: MergeOptions) -> None:
        self.name = name
        reference, error = attempt(ModelReference.parse, name)
        if reference is None:
            raise self._unreadable(error)
        self.reference: ModelReference = reference
        LoaderCache().setup(options)
        loader, error = attempt(LoaderCache().get, self.reference)
        if loader is None:
            raise self._unreadable(error)
        self._loader, self._digests = loader, dict[str, str]()
        self.paths: dict[str, str] = loader.index.tensor_paths
        self.shapes = self._read_shapes(options.lazy_unpickle)

    def _read_shapes(self, lazy_unpickle: bool) -> dict[str, tuple[int, ...]]:
        if isinstance(self._loader, FileLoader):
            file = self._loader.file
            return {name: file.shape(name) for name in file.names()}
        weights = read_weights(self._loader.index.base_path, lazy_unpickle)
        if weights.fault:
            raise SourceError(f"{self.name} cannot be read: {weights.fault}")
        return {name: weights.shapes[name] for name in self.paths}

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor, on the CPU.

        Raises:
            SourceError: if it cannot be read, or has no dtype that can be merged.
        """
        tensor, error = attempt(self._loader.get_tensor, name)
        if tensor is None:
            raise self._unreadable(error)
        tensor = ordinary(tensor)
        floating = tensor.dtype.is_floating_point
        if tensor.dtype.is_complex or (floating and tensor.element_size() == 1):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise SourceError(
                f"{self.name} is quantised: {name} holds {dtype}; take the"
                " 16-bit weights"
            )
        self._digests[name] = _digest(name, tensor)
        return tensor

    def source(self) -> Source:
        """Return by what this model is known, after all of it has been read."""
        base_path = Path(self._loader.index.base_path)
        in_cache = base_path.parent.name == "snapshots"
        path = self.reference.model
        model = str(path.path)
        if self.reference.lora:
            model += f"+{self.reference.lora.path}"
        lines = "".join(self._digests[name] for name in sorted(self._digests))
        return Source(
            model=model,
            revision=path.revision,
            commit=base_path.name if in_cache else None,
            content=hashlib.sha256(lines.encode()).hexdigest(),
        )

    def _unreadable(self, error: Exception | None) -> SourceError:
        why = first_line(error) if error else "nothing is there"
        return SourceError(f"{self.name} cannot be read: {why}")


def _digest(name: str, tensor: torch.Tensor) -> str:
    """Return a line of a tensor's name, dtype, shape and some of its elements."""
    sample = bits_of(tensor.reshape(-1)[::SAMPLED].contiguous()).numpy().tobytes()
    dtype, shape = str(tensor.dtype).removeprefix("torch."), list(tensor.shape)
    return f"{name} {dtype} {shape} {hashlib.sha256(sample).hexdigest()}\n"
