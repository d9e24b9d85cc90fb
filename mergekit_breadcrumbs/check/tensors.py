"""Whether the tensors of the models fit together, by their names and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from mergekit.architecture import WeightInfo
from mergekit.architecture.conversion import can_convert_checkpoint_keys
from mergekit.common import ModelReference

from mergekit_breadcrumbs.check.layout import Slice
from mergekit_breadcrumbs.check.models import Found, Shape
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.wording import listed


def check_tensors(
    slices: list[Slice],
    models: Mapping[ModelReference, Found],
    *,
    aligned: bool,
    problems: Problems,
) -> None:
    """Report each model that lacks tensors, or has one of another shape than the base.

    `aligned` says that mergekit makes the vocabularies equal before it merges.
    """
    for part in slices:
        bases = [i for i, m in enumerate(part.members) if m.model == part.base]
        for i, member in enumerate(part.members):
            found = models[member.model]
            place = member.place
            if place[-1] != "base_model":
                place = (*place, "model")
            lacking = [
                row.inputs[i].name for row in part.rows if _lacks(found, row.inputs[i])
            ]
            if lacking:
                problems.error(place, f"its weights lack {listed(lacking)}")
            for row in part.rows if bases else ():
                vocabulary = row.weight.vocabulary_axis is not None
                got = _shape(found, row.inputs[i])
                base = _shape(
                    models[part.members[bases[0]].model], row.inputs[bases[0]]
                )
                if None in (got, base) or got == base or (aligned and vocabulary):
                    continue
                _report(row.inputs[i].name, got, base, vocabulary, place, problems)
                break


def _report(
    name: str,
    got: Shape | None,
    base: Shape | None,
    vocabulary: bool,
    place: Place,
    problems: Problems,
) -> None:
    hint = "only fine-tunings of one base can be merged"
    if vocabulary:
        hint = "align the vocabularies, as with tokenizer: {source: base}"
    problems.error(
        place, f"{name} has the shape {_size(got)}, in the base {_size(base)}: {hint}"
    )


def _size(shape: Shape | None) -> str:
    return " x ".join(map(str, shape or ())) or "()"


def _names(weight: WeightInfo) -> tuple[str, ...]:
    return (weight.name, *(weight.aliases or ()), *(weight.tied_names or ()))


def _shape(found: Found, weight: WeightInfo) -> Shape | None:
    names = (name for name in _names(weight) if name in found.shapes)
    return next((found.shapes[name] for name in names), None)


def _lacks(found: Found, weight: WeightInfo) -> bool:
    if found.index is None or weight.optional:
        return False
    known = found.index.tensor_paths
    if any(name in known for name in _names(weight)):
        return False
    # Some architectures are saved under other names than transformers gives them.
    kind = getattr(found.config, "model_type", None)
    targets = (weight.name, *(weight.aliases or ()))
    return not any(can_convert_checkpoint_keys(kind, set(known), t) for t in targets)
