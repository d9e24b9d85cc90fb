"""Whether the tensors of the models fit together, by their names and shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mergekit.architecture import WeightInfo
from mergekit.common import ModelReference

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.layout import OutputSlice, Source
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.host.lookup import Shape
from mergekit_breadcrumbs.host.losses import (
    Checkpoint,
    Checkpoints,
    find_losses,
    is_skipped,
    unmerged,
)
from mergekit_breadcrumbs.wording import listed


def checkpoints_of(models: Mapping[ModelReference, ModelFiles]) -> Checkpoints:
    """Return the models whose config and weights could both be read."""
    return {
        model: Checkpoint(
            files.config, files.weights.index.tensor_paths, files.weights.shapes
        )
        for model, files in models.items()
        if files.config is not None and files.weights.index is not None
    }


def check_losses(
    outputs: list[OutputSlice],
    base: ModelReference,
    checkpoints: Checkpoints,
    output_config: Any,
    *,
    skip: Collection[ModelReference],
    problems: Problems,
) -> None:
    """Report tensors of the models that the merged model will not have.

    `output_config` is the config of the merged model; about models in `skip` all has
    been said.
    """
    tensors = [tensor for output in outputs for tensor in output.tensors]
    for model in checkpoints.keys() - skip:
        layers = _layers(model, outputs)
        place = next(
            (s.place for o in outputs for s in o.sources if s.model == model), ()
        )
        if model != base:
            names = unmerged(model, tensors, base, checkpoints, layers)
            if names:
                text = (
                    f"{listed(names)}: the base has no such tensor, so it is not merged"
                )
                problems.add(Code.OWN_TENSORS, place, text)
            continue
        # A base that lacks tensors is of another architecture, if not damaged.
        if problems.cover(place):
            continue
        losses = find_losses(tensors, base, checkpoints, output_config, layers)
        if losses is not None:
            code = Code.LOST_TENSORS if losses.needed else Code.UNUSED_TENSORS
            problems.add(code, ("base_model",), str(losses))


def _layers(model: ModelReference, outputs: list[OutputSlice]) -> set[int] | None:
    """Return the layers of a model that are merged, None if all are."""
    sources = [s for output in outputs for s in output.sources if s.model == model]
    if all(source.layers == (0, source.total_layers) for source in sources):
        return None
    return {layer for source in sources for layer in range(*source.layers)}


def check_tensors(
    outputs: list[OutputSlice],
    checkpoints: Checkpoints,
    *,
    skip: Collection[ModelReference],
    aligned: bool,
    problems: Problems,
) -> None:
    """Report each model whose tensors are not those of the base.

    `skip` are models of which all has been said; `aligned` says that mergekit makes the
    vocabularies equal before it merges.
    """
    for output in outputs:
        for source in output.sources:
            if source.model in checkpoints and source.model not in skip:
                check = _SourceCheck(output, source, checkpoints, problems)
                check.names()
                check.shapes(aligned)


class _SourceCheck:
    """The checks of one model in one output slice."""

    def __init__(
        self,
        output: OutputSlice,
        source: Source,
        checkpoints: Checkpoints,
        problems: Problems,
    ) -> None:
        self._checkpoints, self._problems = checkpoints, problems
        self._source, self._base = source, output.base
        self._own = checkpoints[source.model]
        self._tensors = [
            tensor for tensor in output.tensors if not is_skipped(tensor, checkpoints)
        ]

    def names(self) -> None:
        """Report what the model lacks, and what mergekit would take in its place."""
        required: list[str] = []
        optional: list[str] = []
        heads: list[str] = []
        untied: list[str] = []
        for tensor in self._tensors:
            weight = tensor.called_in(self._source.model)
            found = self._own.lookup.find(weight)
            if found is None:
                (optional if weight.optional else required).append(weight.name)
            elif found.tied and self._own.makes_up(weight.name):
                heads.append(f"{weight.name} (it would take {found.names[0]})")
            elif not found.tied and weight.tied_names and self._is_untied(weight):
                untied.append(weight.name)
        if required:
            self._add(Code.MISSING_TENSORS, f"its weights lack {listed(required)}")
        elif optional:
            self._report_optional(optional)
        if heads:
            text = (
                f"its weights lack {listed(heads)}, and its config.json does not tie"
                " the two: mergekit would merge the one as the other"
            )
            self._add(Code.LOST_HEAD, text)
        if untied:
            text = (
                f"has a head of its own ({untied[0]}), the base uses its embeddings:"
                " the merged model gets a head, but its config.json will say that it is"
                " tied to the embeddings; set tie_word_embeddings to false there"
            )
            self._add(Code.UNTIED_HEAD, text)

    def _report_optional(self, names: list[str]) -> None:
        if self._source.model == self._base:
            text = (
                f"its weights lack {listed(names)}, which another model has: mergekit"
                " stops there"
            )
            self._add(Code.MISSING_IN_BASE, text)
            return
        missed = [name for name in names if self._own.makes_up(name)]
        if missed:
            text = (
                f"its weights lack {listed(missed)}: there the merged model gets"
                " nothing of this one"
            )
            self._add(Code.MISSING_TASK_VECTOR, text)

    def _is_untied(self, weight: WeightInfo) -> bool:
        """Whether this model says that it is not tied, and the base that it is."""
        if self._base not in self._checkpoints:
            return False
        base = self._checkpoints[self._base]
        found = base.lookup.find(weight)
        says = [
            getattr(c.config, "tie_word_embeddings", None) for c in (self._own, base)
        ]
        return found is not None and found.tied and says == [False, True]

    def shapes(self, aligned: bool) -> None:
        """Report the first tensor whose shape is not that of the base's."""
        if self._base not in self._checkpoints:
            return
        base = self._checkpoints[self._base].lookup
        for tensor in self._tensors:
            vocabulary = tensor.weight.vocabulary_axis is not None
            weight = tensor.called_in(self._source.model)
            pair = (
                self._own.lookup.find(weight),
                base.find(tensor.called_in(self._base)),
            )
            got, wanted = (found.shape if found else None for found in pair)
            if None in (got, wanted) or got == wanted or (aligned and vocabulary):
                continue
            code, hint = Code.OTHER_SHAPE, "only fine-tunings of one base can be merged"
            if vocabulary:
                code = Code.OTHER_VOCABULARY
                hint = "align the vocabularies, as with tokenizer: {source: base}"
            text = (
                f"{weight.name} has the shape {_size(got)}, in the base"
                f" {_size(wanted)}: {hint}"
            )
            self._add(code, text)
            return

    def _add(self, code: Code, text: str) -> None:
        self._problems.add(code, self._source.place, text)


def _size(shape: Shape | None) -> str:
    return " x ".join(map(str, shape or ())) or "()"
