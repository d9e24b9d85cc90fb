"""What mergekit plans: which tensors from which models, and the tasks that merge them.

mergekit's own planner plans. Checks only record which tensors it plans; an inspection
has its tasks executed, with a method of ours that records what it is given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeAlias

import torch
from mergekit.architecture import ModelArchitecture, WeightInfo
from mergekit.common import ModelReference
from mergekit.config import (
    ConfigReader,
    MergeConfiguration,
    OutputModuleDefinition,
    OutputSliceDefinition,
)
from mergekit.io.tasks import SaveTensor
from mergekit.merge import _model_out_config
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from mergekit_breadcrumbs.host.loading import quietly
from mergekit_breadcrumbs.host.method import BreadcrumbsMerge

MergeTask: TypeAlias = ExecuteMergeMethodTask
"""mergekit's task that merges one tensor."""

Record = Callable[[TensorGroup, dict[str, Any]], None]
"""Takes a group of tensors and the parameters that mergekit resolved for it."""

_NUMBERS = itertools.count(1)


class PlannedTensor(NamedTuple):
    """One tensor of the merged model, and what it is called in each input.

    `depth` is how far into its output slice the tensor's layer is, from 0 to 1; 0 for
    embeddings and the like, which are in no layer.
    """

    weight: WeightInfo
    inputs: dict[ModelReference, WeightInfo]
    depth: float

    def called_in(self, model: ModelReference) -> WeightInfo:
        """Return what the tensor is called in an input.

        For what follows the last layer, mergekit counts the inputs of the first slice
        and may plan fewer than the last one has.
        """
        return self.inputs.get(model, self.weight)


class _PlanRecorder(MergePlanner):  # type: ignore[misc]  # mergekit is untyped
    """Notes each tensor with its output slice, instead of making tasks for it."""

    planned: list[tuple[OutputSliceDefinition, PlannedTensor]]

    def plan_tensor(
        self,
        weight: WeightInfo,
        weights_in: list[WeightInfo],
        models: list[ModelReference],
        cfg_reader: ConfigReader,
    ) -> None:
        inputs = dict(zip(models, weights_in, strict=False))
        planned = PlannedTensor(weight, inputs, cfg_reader.t)
        self.planned.append((cfg_reader.slice_out, planned))


def planned_tensors(
    config: MergeConfiguration,
    modules: Mapping[str, Sequence[OutputSliceDefinition]],
    architecture: ModelArchitecture,
    options: MergeOptions,
    output_config: Any,
) -> list[list[PlannedTensor]]:
    """Return what mergekit plans for each output slice, in the order of `modules`.

    Those stand in the place of the config's own models and slices. None may be empty.
    """
    definitions = {
        name: OutputModuleDefinition(slices=list(slices))
        for name, slices in modules.items()
    }
    # The planner looks the method up, and the name may be misspelt.
    changed = {"modules": definitions, "models": None, "slices": None}
    changed_config = config.model_copy(
        update={**changed, "merge_method": "breadcrumbs"}
    )
    planner = _PlanRecorder(changed_config, architecture, options, output_config)
    planner.planned = []
    for name, definition in definitions.items():
        planner.plan_module(name, definition)
    return [
        [planned for of, planned in planner.planned if of is output_slice]
        for definition in definitions.values()
        for output_slice in definition.slices
    ]


def output_config(
    config: MergeConfiguration, architecture: ModelArchitecture, options: MergeOptions
) -> Any:
    """Return the merged model's own config, which says how many layers it has."""
    with quietly():
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
