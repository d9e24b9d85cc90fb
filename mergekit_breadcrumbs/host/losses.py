"""Tensors of the base model that a merge would lose without a word.

mergekit writes what its description of the architecture names, and skips a weight that
it takes for optional where no model has it by that very name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from mergekit.common import ModelReference

from mergekit_breadcrumbs.host.loading import Loaded, load
from mergekit_breadcrumbs.host.lookup import Found, Lookup, Shape, layer_of
from mergekit_breadcrumbs.host.planner import PlannedTensor
from mergekit_breadcrumbs.wording import counted, listed

# Kept in old checkpoints, but made anew by transformers whenever a model is loaded.
_DERIVED = re.compile(
    r"\b(inv_freq|masked_bias|(attn|attention|self)\.bias|position_ids|causal_mask)$"
)


class Checkpoint:
    """One model's tensors, by name and shape, and its config.

    Args:
        config: of the model.
        known: names of the tensors that mergekit knows of.
        shapes: the shapes of all tensors that are there, None where not known.
    """

    def __init__(
        self, config: Any, known: Iterable[str], shapes: Mapping[str, Shape | None]
    ) -> None:
        self.config, self.shapes = config, shapes
        self.lookup = Lookup(getattr(config, "model_type", None), known, shapes)

    @cached_property
    def loaded(self) -> Loaded | None:
        """What transformers makes of it by itself."""
        return load(self.config, self.shapes)

    def makes_up(self, name: str) -> bool:
        """Whether loading this model makes up a weight that it does not have."""
        if self.loaded is None:
            tied = getattr(self.config, "tie_word_embeddings", None)
            return tied is False and name not in self.shapes
        return name in self.loaded.missing

    def content(self, names: Iterable[str]) -> list[str]:
        """Return those names that hold more than what transformers makes anew."""
        return sorted(name for name in names if not self._is_derived(name))

    def _is_derived(self, name: str) -> bool:
        if not _DERIVED.search(name):
            return False
        return self.loaded is None or name not in self.loaded.expected


Checkpoints = Mapping[ModelReference, Checkpoint]


def is_skipped(tensor: PlannedTensor, checkpoints: Checkpoints) -> bool:
    """Whether mergekit drops a weight from its plan, as one that no model has."""
    return tensor.weight.optional and not any(
        checkpoints[model].lookup.has(weight)
        for model, weight in tensor.inputs.items()
        if model in checkpoints
    )


class Losses(NamedTuple):
    """What the merged model will lack: tensors of the base, and how much that is.

    `needed` says whether transformers would have to make up weights for them.
    """

    names: Sequence[str]
    elements: int
    share: float
    needed: bool

    def __str__(self) -> str:
        tensors = f"the merged model will lack {counted(len(self.names), 'tensor')}"
        size = f"{counted(self.elements, 'element')}, {100 * self.share:.3g} %"
        not_needed = "" if self.needed else ", which transformers does not load"
        return f"{tensors} ({size}) that the base has{not_needed}: {listed(self.names)}"


def find_losses(
    tensors: Collection[PlannedTensor],
    base: ModelReference,
    checkpoints: Checkpoints,
    output_config: Any,
    layers: Collection[int] | None = None,
) -> Losses | None:
    """Return the tensors of the base that a plan loses, None if it loses none.

    Args:
        tensors: everything that mergekit plans.
        base: the base model.
        checkpoints: the models that are known, with the base.
        output_config: the config of the merged model.
        layers: those that the merged model is meant to have; None for all.
    """
    own = checkpoints[base]
    read, merged = set[str](), dict[str, Shape | None]()
    for tensor in tensors:
        if is_skipped(tensor, checkpoints):
            continue
        found = _found(tensor, base, checkpoints)
        if found is not None:
            read.update(found.names)
            merged[tensor.weight.name] = found.shape
    unread = _within(layers, own.content(own.shapes.keys() - read))
    if not unread:
        return None
    after = load(output_config, merged) if own.loaded else None
    if own.loaded is None or after is None:
        return _losses(unread, own.shapes, needed=True)
    if after.missing - own.loaded.missing:
        return _losses(unread, own.shapes, needed=True)
    # One that is expected, and not missed, is tied to another that is there.
    unread = [name for name in unread if name not in own.loaded.expected]
    return _losses(unread, own.shapes, needed=False) if unread else None


def unmerged(
    model: ModelReference,
    tensors: Collection[PlannedTensor],
    base: ModelReference,
    checkpoints: Checkpoints,
    layers: Collection[int] | None = None,
) -> list[str]:
    """Return the tensors of a fine-tuned model that the base does not have.

    But for those that are merged all the same, or that are tied to others. Takes what
    `find_losses` takes.
    """
    own = checkpoints[model]
    found = [
        own.lookup.find(tensor.called_in(model))
        for tensor in tensors
        if not is_skipped(tensor, checkpoints)
    ]
    read = {name for each in found if each for name in each.names}
    unknown = own.shapes.keys() - checkpoints[base].shapes.keys() - read
    extra = _within(layers, own.content(unknown))
    if not extra or own.loaded is None:
        return extra
    rest = {name: own.shapes[name] for name in own.shapes.keys() - set(extra)}
    without = load(own.config, rest)
    missed = without.missing - own.loaded.missing if without else set()
    return [n for n in extra if n in missed or n not in own.loaded.expected]


def _within(layers: Collection[int] | None, names: list[str]) -> list[str]:
    if layers is None:
        return names
    return [name for name in names if layer_of(name) in (None, *layers)]


def _found(
    tensor: PlannedTensor, base: ModelReference, checkpoints: Checkpoints
) -> Found | None:
    """Return what is read of the base, or of another model where it has no part."""
    found = checkpoints[base].lookup.find(tensor.called_in(base))
    if found is not None:
        return found
    for model in tensor.inputs.keys() & checkpoints.keys():
        found = checkpoints[model].lookup.find(tensor.inputs[model])
        if found is not None:
            return Found((), found.shape)
    return None


def _losses(
    names: list[str], shapes: Mapping[str, Shape | None], needed: bool
) -> Losses:
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if shape}
    lost = sum(sizes.get(name, 1) for name in names)
    return Losses(names, lost, lost / max(sum(sizes.values()), 1), needed)
