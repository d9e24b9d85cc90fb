"""Making each tensor of a merge again, and comparing it with the folder's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from mergekit.architecture import (
    ModelArchitecture,
    WeightInfo,
    get_architecture_info,
)
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor, Task
from mergekit.io.tasks import SaveTensor
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from mergekit.tokenizer import BuildTokenizer, TokenizerInfo

from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.notices import NOTICES
from mergekit_breadcrumbs.host.planner import output_config
from mergekit_breadcrumbs.host.repeat import (
    Receiver,
    other_implementation,
    repeat,
    saved_weights,
    set_vocabulary,
)
from mergekit_breadcrumbs.verify.compare import (
    Difference,
    count_not_finite,
    difference,
)
from mergekit_breadcrumbs.verify.weights import Weights

TRIED = 3
"""How many tensors that differ are made again with the other implementation."""


@dataclass(eq=False)  # mergekit wants it hashable
class Comparison:
    """Takes a merge's tensors in the place of mergekit's writer, and compares each.

    `elements` has how many elements each tensor of the merge has, `shapes` the shapes
    in the folder, by the tensor's name;
    `unlike` a pair (folder, config) of shapes and dtypes that are not the same.
    """

    weights: Weights
    elements: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unlike: dict[str, tuple[str, str]] = field(default_factory=dict)
    different: dict[str, Difference] = field(default_factory=dict)
    not_finite: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def save_tensor(self, name: str, tensor: torch.Tensor, clone: bool = False) -> None:
        """Compare one tensor as it would be written."""
        self.elements[name] = tensor.numel()
        if name not in self.weights.file_of:
            self.missing.append(name)
            return
        found, fault = self.weights.read(name)
        if found is None:
            self.unreadable[name] = fault
            return
        self.shapes[name] = tuple(found.shape)
        odd = count_not_finite(found)
        if odd:
            self.not_finite[name] = odd
        kinds = _kind(found), _kind(tensor)
        if kinds[0] != kinds[1]:
            self.unlike[name] = kinds
            return
        differs = difference(found, tensor.cpu())
        if differs is not None:
            self.different[name] = differs

    @property
    def differing(self) -> list[str]:
        """The names of the tensors that are not what the config says, as merged."""
        return [n for n in self.elements if n in self.different or n in self.unlike]


def _kind(tensor: torch.Tensor) -> str:
    shape = " x ".join(map(str, tensor.shape)) or "one number"
    return f"{shape}, {str(tensor.dtype).removeprefix('torch.')}"


class OrderedConfig(MergeConfiguration):  # type: ignore[misc]  # mergekit is untyped
    """A config whose models come in an order that is given.

    mergekit goes through them in the order of a set, which changes from run to run, and
    numbers the tokens of a joint vocabulary by it.
    """

    order: tuple[ModelReference, ...] = ()

    @classmethod
    def of(
        cls, config: MergeConfiguration, order: Sequence[ModelReference]
    ) -> OrderedConfig:
        """Return a copy of a config; `order` holds each of its models once."""
        own = {name: getattr(config, name) for name in MergeConfiguration.model_fields}
        ordered: OrderedConfig = cls.model_construct(**own, order=tuple(order))
        copy: OrderedConfig = ordered.model_copy(deep=True)
        return copy

    def referenced_models(self) -> list[ModelReference]:
        return list(self.order)


class Plan:
    """A merge as mergekit plans it, ready to be executed.

    `saved` knows each tensor that it will write. The models have to be open.

    Raises:
        Exception: whatever mergekit raises if it cannot plan the merge.
    """

    def __init__(
        self, config: MergeConfiguration, options: MergeOptions, receiver: Receiver
    ) -> None:
        # The planner rewrites the config that it is given.
        config = OrderedConfig.of(config, sorted_models(config))
        self.config, self.options = config, options
        architecture: ModelArchitecture = get_architecture_info(config, options)
        self.architecture = architecture
        self.planner = MergePlanner(
            config, architecture, options, output_config(config, architecture, options)
        )
        self.tasks: list[Task] = repeat(self.planner, receiver)
        self.saved: dict[str, WeightInfo] = saved_weights(self.tasks)

    def make_tokenizer(self) -> Any:
        """Return the tokenizer that mergekit makes; None if it copies one."""
        makers = [task for task in self.tasks if isinstance(task, BuildTokenizer)]
        return makers[0].execute().tokenizer if makers else None

    def execute(self, only: Collection[str] | None = None) -> Any:
        """Hand every tensor, or only some, to the receiver; one at a time.

        Returns the merged model's tokenizer if mergekit makes one, else None.
        """
        tasks = self.tasks
        if only is not None:
            saves = (t for t in tasks if isinstance(t, SaveTensor))
            tasks = [task for task in saves if task.tensor_name in only]
        options = self.options
        if options.random_seed is not None:
            transformers.set_seed(options.random_seed)
        executor = Executor(
            targets=tasks,
            math_device=options.device,
            storage_device=options.device if options.low_cpu_memory else "cpu",
        )
        tokenizer = None
        quiet = options.quiet or only is not None
        for _, value in executor.run(quiet=quiet, desc="Comparing"):
            if isinstance(value, TokenizerInfo):
                tokenizer = value.tokenizer
        return tokenizer

    def written_config(self, donor: ModelReference, tokenizer: Any) -> Any:
        """Return the config.json that the merge writes, made from that of one model."""
        config = self.config.model_copy(update={"base_model": donor})
        written = output_config(config, self.architecture, self.options)
        if tokenizer is not None:
            set_vocabulary(written, self.architecture, tokenizer, config)
        return written


def sorted_models(config: MergeConfiguration) -> list[ModelReference]:
    """Return the models of a config: as they are ordered, or else the base first."""
    models: list[ModelReference] = config.referenced_models()
    if isinstance(config, OrderedConfig):
        return models
    return sorted(models, key=lambda model: (model != config.base_model, str(model)))


def tried(call: Any, *args: Any) -> tuple[Any, Exception | None]:
    """Call what mergekit does, which calls our methods; they refuse with ValueError."""
    try:
        with NOTICES.silenced():
            return attempt(call, *args)
    except ValueError as error:
        return None, error


def made_by_the_other(
    config: MergeConfiguration, options: MergeOptions, comparison: Comparison
) -> bool:
    """Whether the implementation that is not in use here makes the folder's tensors.

    Some of the tensors that differ are tried, the smallest first.
    """
    names = sorted(comparison.different, key=lambda name: comparison.elements[name])
    names = names[:TRIED]
    again = Comparison(comparison.weights)
    with other_implementation(config.merge_method) as other:
        if other is None or not names:
            return False
        changed = config.model_copy(update={"merge_method": other})
        plan, error = tried(Plan, changed, options, again)
        if error is None:
            _, error = tried(plan.execute, names)
    return error is None and not again.differing and again.elements.keys() == {*names}
