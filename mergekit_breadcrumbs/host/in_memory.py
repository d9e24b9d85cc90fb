"""Merging again and again in one process, into a folder or into memory.

mergekit's own `run_merge` merges, so the bits are those of `mergekit-yaml`. What it
keeps for the life of a process is put back after each merge: models that it has opened,
its settings, and the random numbers.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors
import torch
import tqdm
from mergekit import plan
from mergekit.architecture.auto import infer_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.io.lazy_tensor_loader import LazyTensorLoader, ShardedTensorIndex
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.tokenizer import build

from mergekit_breadcrumbs.host.attempt import quiet
from mergekit_breadcrumbs.host.loading import quietly
from mergekit_breadcrumbs.host.notices import NOTICES
from mergekit_breadcrumbs.host.repeat import HandOver, own_loaders

# What mergekit keeps belongs to the process, and one merge has it at a time.
_ONE_AT_A_TIME = threading.RLock()


class Inputs:
    """The models of many merges, opened once and seen by no other merge.

    Args:
        options: mergekit's own, for every merge.
    """

    def __init__(self, options: MergeOptions) -> None:
        # A model card asks the hub which of the inputs are there.
        changed = {"quiet": True, "write_model_card": False}
        self.options: MergeOptions = options.model_copy(update=changed)
        self._loaders: dict[Any, Any] = {}

    def merge(self, config: MergeConfiguration, folder: Path) -> None:
        """Merge into a folder, without a model card.

        Args:
            config: is rewritten by mergekit.
            folder: new.

        Raises:
            Exception: whatever mergekit or a method raises.
        """
        with self._in_use(config):
            run_merge(config, str(folder), self.options)

    def merge_in_memory(
        self, config: MergeConfiguration, folder: Path
    ) -> dict[str, torch.Tensor]:
        """Merge, and return the tensors that would have been written, by their names.

        Each has memory of its own. All else is in the folder: config and tokenizer.
        Takes and raises what `merge` does.
        """
        kept = _Kept()
        with self._in_use(config), _in_the_place_of_the_writer(kept):
            run_merge(config, str(folder), self.options)
        return kept.tensors

    def close(self) -> None:
        """Close the models, and forget what they are made of."""
        self._loaders.clear()
        infer_architecture_info.cache_clear()

    def _open(self, config: MergeConfiguration) -> None:
        cache = LoaderCache()
        cache.setup(self.options)
        for model in config.referenced_models():
            cache.get(model)
        # A breadcrumb file has its base opened, which may be no model of the config.
        for loader in LoaderCache.loaders.values():
            _keep_open(loader)

    @contextmanager
    def _in_use(self, config: MergeConfiguration) -> Iterator[None]:
        """Lend the open models to mergekit, and keep it quiet."""
        silent = (quiet(), quietly(), NOTICES.silenced(), _without_bars())
        with _ONE_AT_A_TIME, ExitStack() as stack:
            for context in (*silent, _own_settings(), own_loaders()):
                stack.enter_context(context)
            stack.enter_context(_own_random_numbers())
            LoaderCache.loaders.update(self._loaders)
            try:
                self._open(config)
                yield
            finally:
                self._loaders.update(LoaderCache.loaders)


class _AllFiles:
    """A model's safetensors files, each opened at the first need and once.

    mergekit has one of them open at a time, and lists its tensors to find each.
    """

    def __init__(self, index: ShardedTensorIndex) -> None:
        self._index = index
        self._open: dict[str, Any] = {}

    def keys(self) -> Collection[str]:
        """Return the names of all tensors."""
        names: Collection[str] = self._index.tensor_paths.keys()
        return names

    def get_tensor(self, key: str) -> torch.Tensor:
        """Read one tensor."""
        file = self._index.tensor_paths[key]
        if file not in self._open:
            path = Path(self._index.base_path, file)
            self._open[file] = safetensors.safe_open(path, framework="pt")
        tensor: torch.Tensor = self._open[file].get_tensor(key)
        return tensor


def _keep_open(loader: Any) -> None:
    """Have mergekit's loader find every file of a model open from now on."""
    known = isinstance(loader, LazyTensorLoader) and loader.index.is_safetensors
    if known and not isinstance(loader.current_shard, _AllFiles):
        loader.current_shard = _AllFiles(loader.index)


class _Kept:
    """Takes a merge's tensors in the place of mergekit's writer, and keeps them."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._places: set[int] = set()

    def save_tensor(self, name: str, tensor: torch.Tensor, clone: bool = False) -> None:
        """Keep a tensor as it would be written."""
        tensor = tensor.contiguous()
        self.tensors[name] = tensor.clone() if self._is_shared(tensor) else tensor

    def finalize(self) -> None:
        """Nothing is left to be written."""

    def _is_shared(self, tensor: torch.Tensor) -> bool:
        """Whether others use a tensor's memory: an input, or another tensor.

        Who changes a merged model in place must not change the next one.
        """
        memory = tensor.untyped_storage()
        if memory.data_ptr() in self._places:
            return True
        self._places.add(memory.data_ptr())
        # A part of a file that is mapped is no memory of PyTorch's, and cannot grow.
        if memory.nbytes() > tensor.nbytes or not memory.resizable():
            return True
        # What was read from a pickle is kept by its loader.
        opened = LoaderCache.loaders.values()
        return not all(loader.index.is_safetensors for loader in opened)


@contextmanager
def _in_the_place_of_the_writer(receiver: _Kept) -> Iterator[None]:
    """Have a planner plan with a receiver where it has a writer."""
    writer = plan.TensorWriterTask
    plan.TensorWriterTask = partial(HandOver, receiver=receiver)
    try:
        yield
    finally:
        plan.TensorWriterTask = writer


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the one progress bar of mergekit that its option `quiet` leaves."""
    bars = build.tqdm
    build.tqdm = SimpleNamespace(tqdm=partial(tqdm.tqdm, disable=True))
    try:
        yield
    finally:
        build.tqdm = bars


@contextmanager
def _own_settings() -> Iterator[None]:
    """Put back what mergekit has been told about opening models."""
    settings = vars(LoaderCache())
    before = dict(settings)
    try:
        yield
    finally:
        settings.clear()
        settings.update(before)


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Begin as this process began, and have others go on with theirs.

    Without a seed, too, one config makes one model in a process.
    """
    known = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if known else ()
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        torch.manual_seed(torch.initial_seed())
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
