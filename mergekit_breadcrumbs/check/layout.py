"""The output slices of a config: which layers of which models become which.

mergekit lays out the same while it plans, but stops at the first thing that is wrong,
and has forgotten by then where in the file it stood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from mergekit.architecture import ModelArchitecture
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration

from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Place
from mergekit_breadcrumbs.check.sections import Section, sections
from mergekit_breadcrumbs.host.attempt import attempt, first_line
from mergekit_breadcrumbs.host.planner import PlannedTensor

LayerCounts: TypeAlias = dict[tuple[str, ModelReference], int]


class Source(NamedTuple):
    """A model in an output slice: its first layer and the one after its last.

    `section` is where it stands; a base model that is listed nowhere else stands beside
    its own key.
    """

    section: Section
    model: ModelReference
    layers: tuple[int, int]
    total_layers: int

    @property
    def place(self) -> Place:
        """Where the model is named."""
        place = self.section.place
        return place if place == ("base_model",) else (*place, "model")

    def settings(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Yield the `parameters:` that apply, from the nearest to the farthest."""
        for section in self.section.levels:
            if section.get("parameters"):
                yield (*section.place, "parameters"), section.get("parameters")

    def setting_place(self, *names: str) -> Place:
        """Return where the nearest of some parameters is set, or could be."""
        for place, settings in self.settings():
            for name in names:
                if name in settings:
                    return (*place, name)
        return (*self.section.place, "parameters")

    def possible_places(self, name: str) -> list[Place]:
        """Return wherever a parameter might have been written, rightly or not."""
        levels = [section.place for section in self.section.levels]
        return [(*levels[0], name), *((*place, "parameters", name) for place in levels)]


@dataclass
class OutputSlice:
    """Layers of the merged model that are made of the same sources.

    `complete` tells whether every source was found; others are left out.
    """

    module: str
    place: Place
    base: ModelReference | None
    sources: list[Source]
    complete: bool
    tensors: list[PlannedTensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many layers it makes."""
        first, end = self.sources[0].layers
        return end - first

    @property
    def finetuned(self) -> list[Source]:
        """The sources besides the base."""
        return [source for source in self.sources if source.model != self.base]


def count_layers(
    architecture: ModelArchitecture, models: Mapping[ModelReference, ModelFiles]
) -> tuple[LayerCounts, Exception | None]:
    """Return the number of layers of each module of each model that was found.

    Or what mergekit raises where a config.json lacks the key for them.
    """
    counts: LayerCounts = {}
    for name, module in architecture.modules.items():
        for model, files in models.items():
            if files.config is not None:
                count, error = attempt(module.architecture.num_layers, files.config)
                if error is not None and not isinstance(error, RuntimeError):
                    return {}, error
                if count is None:
                    why = first_line(error) if error else "they are not counted"
                    text = f"{model} ({files.architecture_name}): {why}"
                    return {}, RuntimeError(text)
                counts[name, model] = count
    return counts, None


def lay_out(
    config: MergeConfiguration, architecture: ModelArchitecture, counts: LayerCounts
) -> list[OutputSlice]:
    """Return the output slices of every module, without their tensors."""
    outputs: list[OutputSlice] = []
    for section in sections(config):
        if section.kind in ("file", "module"):
            named = section.place[1:] or architecture.modules
            for module in named:
                outputs += _output_slices(section, module, counts)
    # A module that the architecture lacks is told of elsewhere.
    return [part for part in outputs if part.module in architecture.modules]


def _output_slices(
    section: Section, module: str, counts: LayerCounts
) -> Iterator[OutputSlice]:
    models = [inner for inner in section.inner() if inner.kind == "model"]
    base = section.base_model
    if models:
        if base is not None and base not in [entry.get("model") for entry in models]:
            models.append(Section("model", ("base_model",), {"model": base}, section))
        complete = all((module, entry.get("model")) in counts for entry in models)
        place = (*section.place, "models")
        yield OutputSlice(
            module, place, base, _sources(models, module, counts), complete
        )
    for part in section.inner():
        if part.kind == "output slice":
            inputs = list(part.inner())
            sources = _sources(inputs, module, counts)
            complete = len(sources) == len(inputs)
            yield OutputSlice(module, part.place, part.base_model, sources, complete)


def _sources(inputs: list[Section], module: str, counts: LayerCounts) -> list[Source]:
    """Return the sources whose models were found."""
    found = []
    for section in inputs:
        model = section.get("model")
        if (module, model) in counts:
            total = counts[module, model]
            layers = section.get("layer_range") or (0, total)
            found.append(Source(section, model, layers, total))
    return found
