"""Look at every tensor of a merge, as mergekit itself plans, reads and orders them.

The plan is the merge's own. Only then the tasks that would merge are given a method
that measures and hands the base's tensor back, under a name of its own: no merge that
runs in this process at the same time can meet it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from typing import Any

import torch
import tqdm
from mergekit import merge_methods
from mergekit.architecture import (
    ConfiguredModuleArchitecture,
    ModelArchitecture,
    get_architecture_info,
)
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache, SaveTensor

# Private, but there is no other way to the layers of an output made of slices.
from mergekit.merge import _model_out_config
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.multigpu_executor import MultiGPUExecutor
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from mergekit_breadcrumbs.host.method import BreadcrumbsMerge
from mergekit_breadcrumbs.measure.records import tensor_figures
from mergekit_breadcrumbs.measure.report import Report, TensorFigures
from mergekit_breadcrumbs.wording import counted

_NUMBERS = itertools.count(1)


def inspect_tensors(
    config: MergeConfiguration,
    options: MergeOptions,
    layers: Sequence[int] | None = None,
) -> Report:
    """Measure what a merge would do to every tensor; nothing is written.

    Reads what the merge would read, with its progress bars, and holds no more of it in
    memory at a time. LoRA adapters are merged into `lora_merge_cache`, as for a merge.

    Args:
        config: a config of one of this package's two methods; it is not changed.
        options: mergekit's own options.
        layers: look at the tensors of these layers of the output model only; negative
            ones count from the last.

    Raises:
        ValueError: if the method is another, a layer is out of range, or a task vector
            is not finite; and whatever mergekit raises where it cannot merge.
    """
    method = merge_methods.get(config.merge_method)
    if not isinstance(method, BreadcrumbsMerge):
        raise ValueError(
            "merge_method must be one that mergekit-breadcrumbs serves here; got"
            f" {config.merge_method}"
        )
    config = config.model_copy(deep=True)
    architecture = get_architecture_info(config, options)
    LoaderCache().setup(options=options)
    out_config = _model_out_config(
        config, architecture, trust_remote_code=options.trust_remote_code
    )
    layer_of, count = _layers(architecture, out_config)
    chosen = None if layers is None else choose_layers(layers, count)
    models = config.referenced_models()
    for model in tqdm.tqdm(models, "Opening models", disable=options.quiet):
        LoaderCache().get(model)
    planner = MergePlanner(config, architecture, options, out_config)
    # Nothing is written before a task that saves is executed, and none is. The plan for
    # a merge in memory cannot be made: mergekit 0.1.5 fails to build its tasks.
    plan = planner.plan_to_disk("")
    tasks = [
        (layer_of.get(task.tensor_name), task.tensor_task)
        for task in plan
        if isinstance(task, SaveTensor)
    ]
    if chosen is not None:
        tasks = [(layer, task) for layer, task in tasks if layer in chosen]
    found = _measure_all(tasks, method, options)
    names = [task.output_weight.name for _, task in tasks]
    merged = [name for name in names if name in found and found[name].vectors]
    bases = [config.base_model, *(task.base_model for _, task in tasks)]
    return Report(
        merge_method=config.merge_method,
        base_model=str(next(filter(None, bases))),
        models=list(dict.fromkeys(m for _, task in tasks for m in _finetuned(task))),
        layer_count=count,
        layers=chosen,
        tensors=[found[name] for name in merged],
        unmerged=[name for name in names if name not in merged],
    )


def _finetuned(task: ExecuteMergeMethodTask) -> list[str]:
    """Return the models that a tensor is planned to be merged from."""
    return [str(model) for model in task.model_order if model != task.base_model]


def _layers(
    architecture: ModelArchitecture, out_config: Any
) -> tuple[dict[str, int], int]:
    """Return the layer of each of the output's tensors in a layer, and how many."""
    layer_of: dict[str, int] = {}
    count = 0
    for module in architecture.modules.values():
        configured = ConfiguredModuleArchitecture(
            info=module.architecture,
            config=out_config,
            weight_prefix=module.weight_prefix,
        )
        layers = configured.num_layers()
        count = max(count, layers)
        for layer in range(layers):
            for weight in configured.layer_weights(layer):
                layer_of[weight.name] = layer
    return layer_of, count


def choose_layers(layers: Sequence[int], count: int) -> list[int]:
    """Return which layers are meant, in ascending order."""
    for layer in layers:
        if not -count <= layer < count:
            raise ValueError(
                f"layers must be in [{-count}, {count - 1}], for the merged model has"
                f" {counted(count, 'layer')}; got {layer}"
            )
    return sorted({layer % count for layer in layers})


def _measure_all(
    tasks: Sequence[tuple[int | None, ExecuteMergeMethodTask]],
    method: BreadcrumbsMerge,
    options: MergeOptions,
) -> dict[str, TensorFigures]:
    """Execute tasks, each with its layer, and return the figures by tensor name."""
    found: dict[str, TensorFigures] = {}
    places = {
        task.output_weight.name: (layer, _finetuned(task)) for layer, task in tasks
    }

    def record(group: TensorGroup, parameters: dict[str, Any]) -> None:
        name = group.metadata.name
        found[name] = tensor_figures(group, parameters, *places[name])

    with _registered(method, record) as name:
        targets = [task.model_copy(update={"method_name": name}) for _, task in tasks]
        for _ in _executor(targets, options).run(quiet=options.quiet):
            pass
    return found


def _executor(
    targets: list[ExecuteMergeMethodTask], options: MergeOptions
) -> Executor | MultiGPUExecutor:
    if options.multi_gpu:
        storage = None if options.low_cpu_memory else "cpu"
        return MultiGPUExecutor(targets=targets, storage_device=storage)
    return Executor(
        targets=targets,
        math_device=options.device,
        storage_device=options.device if options.low_cpu_memory else "cpu",
    )


@dataclass(frozen=True)
class _Inspection(BreadcrumbsMerge):
    """Records what a merge would do with each weight, and keeps the base's."""

    record: Callable[[TensorGroup, dict[str, Any]], None] = field(compare=False)

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Record a group and the parameters that mergekit resolved for it."""
        self.record(group, parameters)
        base: torch.Tensor = group.base.tensor
        return base


@contextmanager
def _registered(
    method: BreadcrumbsMerge, record: Callable[[TensorGroup, dict[str, Any]], None]
) -> Iterator[str]:
    """Have mergekit find an `_Inspection` of `method` by the name that is returned."""
    consensus, sparsification, normalize, rescale, name, *names = astuple(method)
    name = f"{name} (inspection {next(_NUMBERS)})"
    registry.register(
        _Inspection(consensus, sparsification, normalize, rescale, name, *names, record)
    )
    try:
        yield name
    finally:
        registry._METHODS.pop(name, None)
