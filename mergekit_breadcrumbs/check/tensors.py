"""Whether the tensors of the models fit together, by their names and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from mergekit.architecture import WeightInfo
from mergekit.architecture.conversion import can_convert_checkpoint_keys
from mergekit.common import ModelReference

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.layout import OutputSlice, Source
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.weights import Shape
from mergekit_breadcrumbs.wording import listed


def check_tensors(
    outputs: list[OutputSlice],
    models: Mapping[ModelReference, ModelFiles],
    *,
    aligned: bool,
    problems: Problems,
) -> None:
    """Report each model that lacks tensors, or has one of another shape than the base.

    `aligned` says that mergekit makes the vocabularies equal before it merges.
    """
    for output in outputs:
        for source in output.sources:
            found = models[source.model]
            names = [tensor.called_in(source.model) for tensor in output.tensors]
            lacking = [weight.name for weight in names if _lacks(found, weight)]
            if lacking:
                text = f"its weights lack {listed(lacking)}"
                problems.add(Code.MISSING_TENSORS, source.place, text)
            _check_shapes(output, source, models, aligned, problems)


def _check_shapes(
    output: OutputSlice,
    source: Source,
    models: Mapping[ModelReference, ModelFiles],
    aligned: bool,
    problems: Problems,
) -> None:
    """Report the first tensor whose shape is not that of the base's."""
    base = output.base
    if base not in [other.model for other in output.sources]:
        return
    for tensor in output.tensors:
        vocabulary = tensor.weight.vocabulary_axis is not None
        weight = tensor.called_in(source.model)
        got = _shape(models[source.model], weight)
        wanted = _shape(models[base], tensor.called_in(base))
        if None in (got, wanted) or got == wanted or (aligned and vocabulary):
            continue
        code, hint = Code.OTHER_SHAPE, "only fine-tunings of one base can be merged"
        if vocabulary:
            code, hint = (
                Code.OTHER_VOCABULARY,
                "align the vocabularies, as with tokenizer: {source: base}",
            )
        problems.add(
            code,
            source.place,
            f"{weight.name} has the shape {_size(got)}, in the base {_size(wanted)}:"
            f" {hint}",
        )
        return


def _size(shape: Shape | None) -> str:
    return " x ".join(map(str, shape or ())) or "()"


def _names(weight: WeightInfo) -> tuple[str, ...]:
    return (weight.name, *(weight.aliases or ()), *(weight.tied_names or ()))


def _shape(found: ModelFiles, weight: WeightInfo) -> Shape | None:
    names = (name for name in _names(weight) if name in found.shapes)
    return next((found.shapes[name] for name in names), None)


def _lacks(found: ModelFiles, weight: WeightInfo) -> bool:
    if found.index is None or weight.optional:
        return False
    known = found.index.tensor_paths
    if any(name in known for name in _names(weight)):
        return False
    # Some architectures are saved under other names than transformers gives them.
    model_type = getattr(found.config, "model_type", None)
    targets = (weight.name, *(weight.aliases or ()))
    return not any(
        can_convert_checkpoint_keys(model_type, set(known), t) for t in targets
    )
