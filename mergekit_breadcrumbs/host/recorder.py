"""A merge method that only records what a merge would be given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup

from mergekit_breadcrumbs.host.method import BreadcrumbsMerge

Record = Callable[[TensorGroup, dict[str, Any]], None]
"""Takes a group of tensors and the parameters that mergekit resolved for it."""

_NUMBERS = itertools.count(1)


@contextmanager
def registered_as(method: BreadcrumbsMerge, record: Record) -> Iterator[str]:
    """Have mergekit know a method that only records, by the name that is returned.

    The name is nobody else's: no merge that runs in this process meanwhile can meet it.
    """
    name = f"{method.method_name} (inspection {next(_NUMBERS)})"
    own = {f.name: getattr(method, f.name) for f in fields(method)}
    registry.register(_GroupRecorder(**own | {"method_name": name}, record=record))
    try:
        yield name
    finally:
        registry._METHODS.pop(name, None)


@dataclass(frozen=True)
class _GroupRecorder(BreadcrumbsMerge):
    """Records what a merge would be given, and keeps the base's tensors."""

    record: Record = field(compare=False)

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Record a group and its parameters; nothing is merged."""
        self.record(group, parameters)
        base: torch.Tensor = group.base.tensor
        return base
