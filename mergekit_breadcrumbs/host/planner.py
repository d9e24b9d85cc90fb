"""What mergekit plans: which tensors from which models, and the tasks that merge them.

mergekit's own planner plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

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
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from mergekit_breadcrumbs.host.loading import quietly

MergeTask: TypeAlias = ExecuteMergeMethodTask
"""mergekit's task that merges one tensor."""


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
