"""Measure one group of tensors as mergekit hands it to a method, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mergekit.merge_methods.base import TensorGroup

from mergekit_breadcrumbs.measure.measure import measure
from mergekit_breadcrumbs.measure.report import (
    Counts,
    Cut,
    Histogram,
    Squares,
    TensorFigures,
    VectorFigures,
)
from mergekit_breadcrumbs.measure.tally_by_count import Cut as MeasuredCut
from mergekit_breadcrumbs.measure.tally_by_count import Figures
from mergekit_breadcrumbs.measure.tensor_roles import role_of


def tensor_figures(
    group: TensorGroup,
    parameters: dict[str, Any],
    layer: int | None,
    planned: Sequence[str],
) -> TensorFigures:
    """Return what a merge would do to a group of tensors.

    Args:
        group: the base and the fine-tuned tensors that there are.
        parameters: of the method, as mergekit resolved them for this group.
        layer: of the output model, if the tensor is in one.
        planned: models that the merge has for this tensor, should one lack it.

    Raises:
        ValueError: if a task vector is not finite, naming model and tensor.
    """
    base, entries, name = group.base.tensor, group.non_base, group.metadata.name
    models = [str(entry.id) for entry in entries]
    per_model = {
        key: [parameters[key][entry.id] for entry in entries]
        for key in ("weight", "density", "gamma")
    }
    measured = measure(
        base,
        [entry.tensor for entry in entries],
        **per_model,
        granularity=parameters["granularity"],
        names=[f"model {model}, tensor {name}" for model in models],
    )
    return TensorFigures(
        name=name,
        role=role_of(name),
        layer=layer,
        shape=list(base.shape),
        dtype=str(base.dtype).removeprefix("torch."),
        granularity=parameters["granularity"],
        elements=base.numel(),
        base_square=measured.base_square,
        overlapping=measured.overlapping,
        opposed=measured.opposed,
        vectors=[
            _vector(model, weight, density, gamma, figures)
            for model, weight, density, gamma, figures in zip(
                models, *per_model.values(), measured.vectors, strict=True
            )
        ],
        absent=[model for model in planned if model not in models],
    )


def _vector(
    model: str, weight: float, density: float, gamma: float, figures: Figures
) -> VectorFigures:
    small, kept, large = figures.histogram.fates
    return VectorFigures(
        model=model,
        weight=weight,
        density=density,
        gamma=gamma,
        zero=figures.zero,
        counts=Counts(**figures.counts._asdict()),
        squares=Squares(
            **dict(zip(Squares.model_fields, figures.squares, strict=True))
        ),
        lower_cut=_cut(figures.lower),
        upper_cut=_cut(figures.upper),
        histogram=Histogram(
            first_bin=figures.histogram.first, small=small, kept=kept, large=large
        ),
    )


def _cut(cut: MeasuredCut | None) -> Cut | None:
    return Cut(**cut._asdict()) if cut else None
