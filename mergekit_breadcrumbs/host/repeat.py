"""A merge made again: planned and executed by mergekit, and nothing is written."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Protocol

import torch
from mergekit.architecture import ModelArchitecture, WeightInfo
from mergekit.config import MergeConfiguration
from mergekit.graph import Task
from mergekit.io.tasks import (
    FinalizeModel,
    LoaderCache,
    SaveTensor,
    TensorWriterTask,
)
from mergekit.merge import _update_config_vocab
from mergekit.merge_methods import registry
from mergekit.merge_methods.generalized_task_arithmetic import (
    GeneralizedTaskArithmeticMerge,
)
from mergekit.plan import MergePlanner

from mergekit_breadcrumbs.host.method import METHODS, BreadcrumbsMerge

_NUMBERS = itertools.count(1)
_OURS = {method.method_name: method for method in METHODS}


class Receiver(Protocol):
    """Takes the tensors of a merged model in the place of mergekit's writer."""

    def save_tensor(self, name: str, tensor: torch.Tensor, clone: bool = False) -> None:
        """Take a tensor as it would be written."""


class HandOver(TensorWriterTask):  # type: ignore[misc]  # mergekit is untyped
    """Gives the tasks that save a receiver, and opens no file."""

    receiver: Any

    def execute(self, **_: Any) -> Receiver:
        receiver: Receiver = self.receiver
        return receiver


def repeat(planner: MergePlanner, receiver: Receiver) -> list[Task]:
    """Return a merge's own tasks, with a receiver in the place of the writer.

    A task that saves casts a tensor and hands it over, as in a merge; their order is
    the merge's, which matters to methods that draw random numbers.
    """
    writer = HandOver(out_path="", max_shard_size=0, receiver=receiver)
    return [
        task.model_copy(update={"writer_task": writer})
        if isinstance(task, SaveTensor)
        else task
        for task in planner.plan_to_disk("")
        if not isinstance(task, FinalizeModel)
    ]


def saved_weights(tasks: Iterable[Task]) -> dict[str, WeightInfo]:
    """Return what is known of each tensor that these tasks save, by its name."""
    return {
        task.tensor_name: task.tensor_task.output_weight
        for task in tasks
        if isinstance(task, SaveTensor)
    }


@contextmanager
def own_loaders() -> Iterator[None]:
    """Keep the models that are opened meanwhile from mergekit's next merge.

    mergekit opens a model once in a process, and goes on with the files of then.
    """
    loaders = LoaderCache.loaders
    before = dict(loaders)
    loaders.clear()
    try:
        yield
    finally:
        loaders.clear()
        loaders.update(before)


@contextmanager
def other_implementation(name: str) -> Iterator[str | None]:
    """Have mergekit know the implementation of a method that is not in use here.

    Yields the name by which it is registered, None if the method has only one.
    """
    ours = _OURS.get(name)
    if ours is None:
        yield None
        return
    kind = GeneralizedTaskArithmeticMerge if ours_in_use(name) else BreadcrumbsMerge
    own = {f.name: getattr(ours, f.name) for f in fields(ours)}
    changed = f"{name} (verification {next(_NUMBERS)})"
    registry.register(kind(**own | {"method_name": changed}))
    try:
        yield changed
    finally:
        registry._METHODS.pop(changed, None)


def ours_in_use(name: str) -> bool:
    """Whether mergekit finds an implementation of this package by this name."""
    return isinstance(registry.get(name), BreadcrumbsMerge)


def card_names_the_other(name: str, card: str) -> bool:
    """Whether a model card names the implementation that is not in use here."""
    ours = _OURS.get(name)
    if ours is None:
        return False
    pretty_name = str(ours.method_pretty_name)
    if ours_in_use(name):
        pretty_name = pretty_name.removesuffix(" (mergekit-breadcrumbs)")
    return f"[{pretty_name}](" in card


def set_vocabulary(
    output_config: Any,
    architecture: ModelArchitecture,
    tokenizer: Any,
    config: MergeConfiguration,
) -> None:
    """Set the size of the vocabulary in a merged model's config, as mergekit does."""
    multiple = config.tokenizer.pad_to_multiple_of if config.tokenizer else None
    _update_config_vocab(
        output_config, architecture, tokenizer, pad_to_multiple_of=multiple
    )
