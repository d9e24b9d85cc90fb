"""mergekit's own planner, asked which tensors it would merge from which models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mergekit.architecture import ModelArchitecture, WeightInfo
from mergekit.common import ModelReference
from mergekit.config import (
    ConfigReader,
    MergeConfiguration,
    OutputModuleDefinition,
    OutputSliceDefinition,
)
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner


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


class _Recorder(MergePlanner):  # type: ignore[misc]  # mergekit is untyped
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
    planner = _Recorder(changed_config, architecture, options, output_config)
    planner.planned = []
    for name, definition in definitions.items():
        planner.plan_module(name, definition)
    return [
        [planned for of, planned in planner.planned if of is output_slice]
        for definition in definitions.values()
        for output_slice in definition.slices
    ]
