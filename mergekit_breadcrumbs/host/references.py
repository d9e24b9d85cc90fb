"""`model: BASE+FILE`: how mergekit comes to read breadcrumb files.

`BASE+ADAPTER` is mergekit's way to write a model with a LoRA adapter. It merges the two
by `ModelReference.merged`, and then opens what comes out as a model. Where the adapter
is a breadcrumb file, something else comes out: a model whose loader reads both. Its
config and its tokenizer are those of the base, as with any adapter.
"""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError
from mergekit.common import ModelReference
from mergekit.io.lazy_tensor_loader import (
    LazyTensorLoader,
    ShardedTensorIndex,
    ShardInfo,
)

from mergekit_breadcrumbs.core.stored import WrongBaseError
from mergekit_breadcrumbs.files.manifest import NAME, STEM
from mergekit_breadcrumbs.files.reader import BreadcrumbFile, is_breadcrumb_file
from mergekit_breadcrumbs.host.overlay import Overlay

_LOOKED_AT = 1 << 20  # elements of the base that are looked at when a file is opened
_merge_with_adapter = ModelReference.merged
_open_model = ModelReference.lazy_loader


def breadcrumb_folder(
    model: ModelReference, cache_dir: str | None = None
) -> str | None:
    """Return the folder of the breadcrumb file that a model is made of.

    A file on the hub is downloaded. None if there is none, but a LoRA adapter, say.

    Args:
        model: any.
        cache_dir: where models from the hub are kept.
    """
    if model.lora is None:
        return None
    path: str = model.lora.path
    if os.path.exists(path):
        return str(path) if is_breadcrumb_file(path) else None
    where = {"revision": model.lora.revision, "cache_dir": cache_dir}
    try:
        huggingface_hub.hf_hub_download(path, NAME, **where)
    # Whatever is wrong is told where the adapter is loaded.
    except (OSError, ValueError, HfHubHTTPError):
        return None
    folder: str = huggingface_hub.snapshot_download(
        path, allow_patterns=[f"{STEM}*"], **where
    )
    return folder


def base_of(model: ModelReference) -> ModelReference:
    """Return the model that a file or an adapter is added to."""
    return model.model_copy(update={"lora": None})


def open_file(model: ModelReference, folder: str) -> BreadcrumbFile:
    """Open the file that a model is made of.

    Raises:
        DamagedFileError: if something is missing, or not what its manifest says.
    """
    return BreadcrumbFile(folder, added_to=str(base_of(model)))


def index_of(file: BreadcrumbFile) -> ShardedTensorIndex:
    """Return mergekit's index of the model that a file and its base make."""
    paths = {name: file.shard(name) for name in file.names()}
    shards = [
        ShardInfo(shard, [name for name, its in paths.items() if its == shard])
        for shard in sorted(set(paths.values()))
    ]
    return ShardedTensorIndex(str(file.directory), True, paths, shards)


def require_base(file: BreadcrumbFile, base: LazyTensorLoader) -> None:
    """Compare a few of the smallest tensors with those that a file was made from.

    Raises:
        WrongBaseError: naming both bases, if one is another.
    """
    elements = {
        name: math.prod(entry.shape)
        for name, entry in file.manifest.tensors.items()
        if entry.stored
    }
    looked_at = 0
    for name in sorted(elements, key=lambda name: elements[name]):
        if looked_at and looked_at + elements[name] > _LOOKED_AT:
            return
        looked_at += elements[name]
        file.stored(name).put_together(_tensor_of_base(file, base, name))


def _tensor_of_base(
    file: BreadcrumbFile, base: LazyTensorLoader, name: str
) -> torch.Tensor:
    if name not in base.index.tensor_paths:
        raise WrongBaseError(
            f"{file.name} was made from another base: {file.manifest.base.model},"
            f" not {file.added_to}, which has no tensor {name}"
        )
    tensor: torch.Tensor = base.get_tensor(name)
    return tensor


class FileLoader:
    """Reads tensors of a base and a file in the place of mergekit's own loader.

    Args:
        file: opened.
        base: the model that it is added to.
        cache_dir: where models from the hub are kept.
        lazy_unpickle: read pickles tensor by tensor.
    """

    def __init__(
        self,
        file: BreadcrumbFile,
        base: ModelReference,
        cache_dir: str | None,
        lazy_unpickle: bool,
    ) -> None:
        self.file, self._base = file, base
        self._options = cache_dir, lazy_unpickle
        self._own: LazyTensorLoader | None = None
        self.index = index_of(file)

    def get_tensor(
        self,
        key: str,
        device: str = "cpu",
        aliases: list[str] | None = None,
        raise_on_missing: bool = True,
    ) -> torch.Tensor | None:
        """Return a tensor; one of which only a part is stored is an `Overlay`.

        Raises:
            KeyError: if there is none of this name.
            ValueError: if the file is damaged.
        """
        for name in (key, *(aliases or ())):
            if name in self.file.manifest.tensors:
                stored = self.file.stored(name)
                load = partial(self._load_base, name)
                dtype, on = self.file.dtype(name), torch.device(device)
                return Overlay(stored, load, self._base, dtype, on)
            if name in self.index.tensor_paths:
                return self.file.whole(name).to(device)
        if raise_on_missing:
            raise KeyError(key)
        return None

    def flush(self) -> None:
        """Close the base, if it is open."""
        self._own = None

    def base_loader(self) -> LazyTensorLoader:
        """Return what reads the base: the merge's own loader, where there is one."""
        from mergekit.io.tasks import LoaderCache

        cache = LoaderCache()
        if (cache.hf_cache_dir, cache.lazy_unpickle) == self._options:
            return cache.get(self._base)
        if self._own is None:
            cache_dir, lazy_unpickle = self._options
            self._own = _open_model(self._base, cache_dir, lazy_unpickle)
        return self._own

    def _load_base(self, name: str) -> torch.Tensor:
        return _tensor_of_base(self.file, self.base_loader(), name)


class FileReference(ModelReference):  # type: ignore[misc]  # mergekit is untyped
    """What comes out of merging a base with a breadcrumb file."""

    folder: str

    def lazy_loader(
        self, cache_dir: str | None = None, lazy_unpickle: bool = True
    ) -> FileLoader:
        """Open it, and see whether the base is the right one."""
        file = open_file(self, self.folder)
        base = ModelReference(
            model=self.model, override_architecture=self.override_architecture
        )
        loader = FileLoader(file, base, cache_dir, lazy_unpickle)
        require_base(file, loader.base_loader())
        return loader


def _merged(
    self: ModelReference, cache_dir: str | None = None, *args: Any, **kwargs: Any
) -> ModelReference:
    """Stand in for `ModelReference.merged`, which knows LoRA adapters alone."""
    from mergekit.io.tasks import LoaderCache

    folder = breadcrumb_folder(self, LoaderCache().hf_cache_dir)
    if folder is None:
        return _merge_with_adapter(self, cache_dir, *args, **kwargs)
    return FileReference(
        model=self.model,
        override_architecture=self.override_architecture,
        folder=folder,
    )


def _lazy_loader(
    self: ModelReference, cache_dir: str | None = None, *args: Any, **kwargs: Any
) -> Any:
    """Stand in for `ModelReference.lazy_loader` where nothing has been merged yet."""
    folder = breadcrumb_folder(self, cache_dir)
    if folder is None:
        return _open_model(self, cache_dir, *args, **kwargs)
    base = base_of(self)
    return FileLoader(open_file(self, folder), base, cache_dir, *args, **kwargs)


def install() -> None:
    """Have mergekit read breadcrumb files. Calling it again changes nothing."""
    ModelReference.merged, ModelReference.lazy_loader = _merged, _lazy_loader
