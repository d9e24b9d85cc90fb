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
from mergekit.config import MergeConfiguration, OutputSliceDefinition

from mergekit_breadcrumbs.check.attempt import attempt
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.check.sections import Section, sections
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
        return place if place[-1] == "base_model" else (*place, "model")

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
    def by_layers(self) -> bool:
        """Whether it is written as a slice, its sources with layer ranges."""
        return bool(self.place[-1] != "models")

    @property
    def length(self) -> int:
        """How many layers it makes."""
        return self.sources[0].layers[1] - self.sources[0].layers[0]

    @property
    def finetuned(self) -> list[Source]:
        """The sources besides the base."""
        return [source for source in self.sources if source.model != self.base]

    def definition(self) -> OutputSliceDefinition:
        """Return it as mergekit's planner takes it, without parameters."""
        sources = [{"model": s.model, "layer_range": s.layers} for s in self.sources]
        return OutputSliceDefinition(sources=sources, base_model=self.base)


def count_layers(
    architecture: ModelArchitecture,
    models: Mapping[ModelReference, ModelFiles],
    problems: Problems,
) -> LayerCounts | None:
    """Return the number of layers of each module of each model that was found.

    Returns None, and reports it, where mergekit cannot tell: a config.json may lack the
    key that its architecture has for them.
    """
    counts: LayerCounts = {}
    for name, module in architecture.modules.items():
        for model, found in models.items():
            if found.config is None:
                continue
            count, error = attempt(module.architecture.num_layers, found.config)
            if error is not None or count is None:
                report_unknown_layers(error, problems)
                return None
            counts[name, model] = count
    return counts


def report_unknown_layers(error: Exception | None, problems: Problems) -> None:
    """Report that mergekit cannot make out the layers, unless an error explains it."""
    if not problems.count("error"):
        text = f"mergekit cannot tell the layers of these models: {error}"
        problems.error((), text)


def lay_out(
    config: MergeConfiguration, architecture: ModelArchitecture, counts: LayerCounts
) -> list[OutputSlice]:
    """Return the output slices of every module, without their tensors."""
    slices: list[OutputSlice] = []
    for section in sections(config):
        if section.kind == "module":
            modules = [section.place[-1]]
        elif section.kind == "file":
            modules = list(architecture.modules)
        else:
            continue
        for name in modules:
            # A module that the architecture lacks is told of elsewhere.
            if name in architecture.modules:
                slices += _output_slices(section, name, counts)
    return slices


def _output_slices(
    section: Section, module: str, counts: LayerCounts
) -> Iterator[OutputSlice]:
    inner = list(section.inner())
    models = [s for s in inner if s.kind == "model"]
    base: ModelReference | None = section.base_model
    if models:
        sources = _sources(models, module, counts)
        complete = len(sources) == len(models)
        if (module, base) in counts and base not in [s.model for s in sources]:
            added = Section("model", ("base_model",), {"model": base}, section)
            sources += _sources([added], module, counts)
        place = (*section.place, "models")
        yield OutputSlice(module, place, base, sources, complete)
    for part in inner:
        if part.kind == "slice":
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
