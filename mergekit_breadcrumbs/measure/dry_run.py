"""Measure every tensor of a merge, as mergekit itself plans, reads and orders them.

The plan is the merge's own; then the tasks that would merge are given a method that
only measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tqdm
from mergekit import merge_methods
from mergekit.architecture import (
    ConfiguredModuleArchitecture,
    ModelArchitecture,
    get_architecture_info,
)
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge_methods.base import TensorGroup
from mergekit.multigpu_executor import MultiGPUExecutor
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from mergekit_breadcrumbs.host.method import BreadcrumbsMerge
from mergekit_breadcrumbs.host.parameters import per_model
from mergekit_breadcrumbs.host.planner import (
    MergeTask,
    output_config,
    planned_merges,
)
from mergekit_breadcrumbs.host.recorder import registered_as
from mergekit_breadcrumbs.measure.measure import measure
from mergekit_breadcrumbs.measure.report import (
    Report,
    TaskVectorReport,
    TensorReport,
    Together,
)
from mergekit_breadcrumbs.measure.tensor_roles import role_of
from mergekit_breadcrumbs.wording import counted


def inspect_tensors(
    config: MergeConfiguration,
    options: MergeOptions,
    layers: Sequence[int] | None = None,
) -> Report:
    """Measure what a merge would do to every tensor; nothing is written.

    Reads what the merge would read, with its progress bars, and keeps no more of it in
    memory at a time. LoRA adapters are merged into `lora_merge_cache`, as for a merge.

    Args:
        config: a config of one of this package's two methods; it is not changed.
        options: mergekit's own options.
        layers: only measure tensors of these layers of the merged model; see
            `choose_layers`.

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
    out_config = output_config(config, architecture, options)
    layer_of, count = _layers(architecture, out_config)
    chosen = None if layers is None else choose_layers(layers, count)
    models = config.referenced_models()
    for model in tqdm.tqdm(models, "Opening models", disable=options.quiet):
        LoaderCache().get(model)
    planner = MergePlanner(config, architecture, options, out_config)
    tasks = {task.output_weight.name: task for task in planned_merges(planner)}
    if chosen is not None:
        tasks = {n: task for n, task in tasks.items() if layer_of.get(n) in chosen}
    found = _measure_all(tasks, layer_of, method, options)
    merged = {n: found[n] for n in tasks if n in found and found[n].vectors}
    bases = [config.base_model, *(task.base_model for task in tasks.values())]
    return Report(
        merge_method=config.merge_method,
        base_model=str(next(filter(None, bases))),
        models=list(dict.fromkeys(m for t in tasks.values() for m in _finetuned(t))),
        layer_count=count,
        layers=chosen,
        tensors=list(merged.values()),
        unmerged=[name for name in tasks if name not in merged],
    )


def choose_layers(layers: Sequence[int], count: int) -> list[int]:
    """Return which of `count` layers are meant; negative numbers count from the last.

    Raises:
        ValueError: if there is no such layer.

    Example:
        >>> choose_layers([-1, 0], count=4)
        [0, 3]
    """
    for layer in layers:
        if not -count <= layer < count:
            raise ValueError(
                f"layers must be in [{-count}, {count - 1}], for the merged model has"
                f" {counted(count, 'layer')}; got {layer}"
            )
    return sorted({layer % count for layer in layers})


def _layers(
    architecture: ModelArchitecture, out_config: Any
) -> tuple[dict[str, int], int]:
    """Return the layer of each tensor that is in one, and how many layers there are."""
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


def _finetuned(task: MergeTask) -> list[str]:
    """Return the models that a tensor is planned to be merged from."""
    return [str(model) for model in task.model_order if model != task.base_model]


def _measure_all(
    tasks: Mapping[str, MergeTask],
    layer_of: Mapping[str, int],
    method: BreadcrumbsMerge,
    options: MergeOptions,
) -> dict[str, TensorReport]:
    """Execute tasks and return reports, both by the name of the tensor."""
    found: dict[str, TensorReport] = {}

    def record(group: TensorGroup, parameters: dict[str, Any]) -> None:
        name = group.metadata.name
        layer, planned = layer_of.get(name), _finetuned(tasks[name])
        found[name] = _tensor_report(group, parameters, layer, planned)

    with registered_as(method, record) as name:
        targets = [t.model_copy(update={"method_name": name}) for t in tasks.values()]
        for _ in _executor(targets, options).run(quiet=options.quiet):
            pass
    return found


def _tensor_report(
    group: TensorGroup,
    parameters: dict[str, Any],
    layer: int | None,
    planned: Sequence[str],
) -> TensorReport:
    base, entries, name = group.base.tensor, group.non_base, group.metadata.name
    models = [str(entry.id) for entry in entries]
    if base.dtype.itemsize < 2:
        kind = str(base.dtype).removeprefix("torch.")
        raise ValueError(
            f"tensors must have at least 16 bits an element; {name} is {kind}: merge"
            " the weights from before they were quantised"
        )
    own = per_model(entries, parameters)
    measured = measure(
        base,
        [entry.tensor for entry in entries],
        **own,
        granularity=parameters["granularity"],
        names=[f"model {model}, tensor {name}" for model in models],
    )
    return TensorReport(
        name=name,
        role=role_of(name),
        layer=layer,
        shape=list(base.shape),
        dtype=str(base.dtype).removeprefix("torch."),
        granularity=parameters["granularity"],
        elements=base.numel(),
        base_square=measured.base_square,
        overlapping=measured.meetings.overlapping,
        opposed=measured.meetings.opposed,
        together=Together(kept=measured.meetings.kept, large=measured.meetings.large),
        vectors=[
            TaskVectorReport(
                model=model,
                **dict(zip(own, values, strict=True)),
                **tallied._asdict(),
            )
            for model, tallied, *values in zip(
                models, measured.vectors, *own.values(), strict=True
            )
        ],
        absent=[model for model in planned if model not in models],
    )


def _executor(
    targets: list[MergeTask], options: MergeOptions
) -> Executor | MultiGPUExecutor:
    if options.multi_gpu:
        storage = None if options.low_cpu_memory else "cpu"
        return MultiGPUExecutor(targets=targets, storage_device=storage)
    return Executor(
        targets=targets,
        math_device=options.device,
        storage_device=options.device if options.low_cpu_memory else "cpu",
    )
