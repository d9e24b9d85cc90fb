"""Which tensors a config merges from which models: mergekit's planner, with places.

mergekit plans the same while it builds its tasks, but stops at the first thing that is
wrong, and has forgotten by then where in the file it stood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mergekit.architecture import ModelArchitecture, WeightInfo
from mergekit.architecture.base import ConfiguredModelArchitecture
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration

from mergekit_breadcrumbs.check.models import Found
from mergekit_breadcrumbs.check.problems import Place

# The `parameters:` that apply, from the nearest to the farthest.
Scopes = tuple[tuple[Place, dict[str, Any]], ...]


@dataclass(frozen=True)
class Row:
    """One output tensor: its depth from 0 to 1, and what it is called in each source.

    Embeddings and the like, outside of all layers, have depth 0, as in mergekit.
    """

    depth: float
    weight: WeightInfo
    inputs: tuple[WeightInfo, ...]


@dataclass(frozen=True)
class Member:
    """One source of a slice: a model, its first layer and the one after its last."""

    place: Place
    model: ModelReference
    layers: tuple[int, int]
    scopes: Scopes
    total_layers: int


@dataclass
class Slice:
    """Layers that are made of the same sources, with their tensors."""

    module: str
    place: Place
    base: ModelReference | None
    members: list[Member]
    shared: Scopes
    # Whether every source was found; those that were not are left out.
    whole: bool
    rows: list[Row] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many layers it makes."""
        return self.members[0].layers[1] - self.members[0].layers[0]

    @property
    def finetuned(self) -> Iterator[tuple[int, Member]]:
        """The sources besides the base, with their positions."""
        for i, member in enumerate(self.members):
            if member.model != self.base:
                yield i, member


def lay_out(
    config: MergeConfiguration,
    architecture: ModelArchitecture,
    models: Mapping[ModelReference, Found],
) -> list[Slice]:
    """Return the slices of every module, without their rows."""
    parts: list[tuple[str, Place, Any]]
    if config.modules:
        parts = [(n, ("modules", n), part) for n, part in config.modules.items()]
    else:
        parts = [(name, (), config) for name in architecture.modules]
    slices: list[Slice] = []
    for name, place, part in parts:
        # A module that the architecture lacks is told of elsewhere.
        if name in architecture.modules:
            slices += _slices(config, architecture, models, name, place, part)
    return slices


def _slices(
    config: MergeConfiguration,
    architecture: ModelArchitecture,
    models: Mapping[ModelReference, Found],
    module: str,
    place: Place,
    part: Any,
) -> Iterator[Slice]:
    shared = _scope(place, part)
    if place:
        shared += _scope((), config)

    def member(where: Place, source: Any, scopes: Scopes, layers: Any = None) -> Member:
        parts = architecture.modules[module].architecture
        total = parts.num_layers(models[source.model].config)
        own = _scope(where, source) if source.parameters else ()
        return Member(where, source.model, layers or (0, total), (*own, *scopes), total)

    if part.models:
        here = (*place, "models")
        members = [
            member((*here, i), entry, shared)
            for i, entry in enumerate(part.models)
            if models[entry.model].config
        ]
        base = config.base_model
        if base and models[base].config and base not in [m.model for m in members]:
            added = type(part.models[0])(model=base)
            members.append(member(("base_model",), added, shared))
        whole = all(models[entry.model].config for entry in part.models)
        yield Slice(module, here, base, members, shared, whole)
    for i, out in enumerate(part.slices or ()):
        here = (*place, "slices", i)
        scopes = (*_scope(here, out), *shared)
        members = [
            member((*here, "sources", j), source, scopes, source.layer_range)
            for j, source in enumerate(out.sources)
            if models[source.model].config
        ]
        base = out.base_model or config.base_model
        whole = len(members) == len(out.sources)
        yield Slice(module, here, base, members, scopes, whole)


def _scope(place: Place, part: Any) -> Scopes:
    return (((*place, "parameters"), part.parameters),) if part.parameters else ()


def add_rows(
    slices: list[Slice],
    architecture: ModelArchitecture,
    models: Mapping[ModelReference, Found],
) -> None:
    """Add the tensors, in mergekit's order; the slices have to be valid."""
    made: dict[str, int] = {}
    for part in slices:
        modules = [
            ConfiguredModelArchitecture(
                info=architecture, config=models[model].config
            ).get_module(part.module)
            for model in [
                _named(part, models),
                *(member.model for member in part.members),
            ]
        ]
        out, sources = modules[0], modules[1:]
        if part.module not in made:
            part.rows += _outside(out.pre_weights(), len(sources))
        for layer in range(part.length):
            depth = layer / (part.length - 1) if part.length > 1 else 1
            index = made.get(part.module, 0)
            inputs = [
                source.layer_weights(member.layers[0] + layer)
                for source, member in zip(sources, part.members, strict=True)
            ]
            outputs = out.layer_weights(index)
            part.rows += [
                Row(depth, weight, tuple(names))
                for weight, *names in map(list, zip(outputs, *inputs, strict=False))
            ]
            made[part.module] = index + 1
    for module in made:
        last = [part for part in slices if part.module == module][-1]
        out = ConfiguredModelArchitecture(
            info=architecture, config=models[_named(last, models)].config
        ).get_module(module)
        last.rows += _outside(out.post_weights(), len(last.members))


def _outside(weights: list[WeightInfo], sources: int) -> list[Row]:
    return [Row(0, weight, (weight,) * sources) for weight in weights]


def _named(part: Slice, models: Mapping[ModelReference, Found]) -> ModelReference:
    """Return the model whose config names the output: the base, as in mergekit."""
    found = part.base is not None and models[part.base].config is not None
    return part.base if found else part.members[0].model
