"""What mergekit plans to merge, handed to a method of ours in place of its own.

A dry run needs private parts of mergekit, and they are used nowhere else.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import torch
from mergekit.architecture import ModelArchitecture
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import SaveTensor
from mergekit.merge import _model_out_config
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from mergekit_breadcrumbs.host.method import BreadcrumbsMerge

MergeTask: TypeAlias = ExecuteMergeMethodTask
"""mergekit's task that merges one tensor."""

Record = Callable[[TensorGroup, dict[str, Any]], None]
"""Takes a group of tensors and the parameters that mergekit resolved for it."""

_NUMBERS = itertools.count(1)


def output_config(
    config: MergeConfiguration, architecture: ModelArchitecture, options: MergeOptions
) -> Any:
    """Return the merged model's own config, which says how many layers it has."""
    return _model_out_config(
        config, architecture, trust_remote_code=options.trust_remote_code
    )


def planned_merges(planner: MergePlanner) -> list[MergeTask]:
    """Return the tasks that merge, in the order in which their results are saved.

    Nothing is written before a task that saves is executed, and none is returned. The
    plan for a merge in memory cannot be made: mergekit 0.1.5 fails to build its tasks.
    """
    plan = planner.plan_to_disk("")
    return [task.tensor_task for task in plan if isinstance(task, SaveTensor)]


@contextmanager
def registered_as(method: BreadcrumbsMerge, record: Record) -> Iterator[str]:
    """Have mergekit know a method that only records, by the name that is returned.

    The name is nobody else's: no merge that runs in this process meanwhile can meet it.
    """
    name = f"{method.method_name} (inspection {next(_NUMBERS)})"
    own = {f.name: getattr(method, f.name) for f in fields(method)}
    registry.register(_Recorder(**own | {"method_name": name}, record=record))
    try:
        yield name
    finally:
        registry._METHODS.pop(name, None)


@dataclass(frozen=True)
class _Recorder(BreadcrumbsMerge):
    """Records what a merge would be given, and keeps the base's tensors."""

    record: Record = field(compare=False)

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Record a group and its parameters; nothing is merged."""
        self.record(group, parameters)
        base: torch.Tensor = group.base.tensor
        return base
