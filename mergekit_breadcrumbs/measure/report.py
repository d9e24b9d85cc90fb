"""What an inspection finds, and the schema of the JSON that says so.

Plain data: no tensor and no formatting. Every number is finite, and the keys stand in
the order of the fields, so that two runs can be compared line by line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mergekit_breadcrumbs.measure.tensor_roles import Role

BINS_PER_OCTAVE = 4
"""Bins of a histogram for each doubling of the magnitude."""


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cut(_Schema):
    """Where slices are cut on one side; granularity `tensor` has one slice."""

    lowest: float = Field(description="The cut's magnitude, least over all slices.")
    highest: float = Field(description="The cut's magnitude, greatest over all slices.")
    ties: int = Field(description="Elements whose magnitude equals their slice's cut.")
    ties_kept: int = Field(description="How many of these survive (by position).")


class Counts(_Schema):
    """Numbers of elements."""

    small: int = Field(description="Dropped as small.")
    kept: int = Field(description="Kept; exact zeros may be among them.")
    large: int = Field(description="Dropped as large.")


class Squares(_Schema):
    """Sums of squares: the squared L2 norms of the parts of a task vector."""

    small: float = Field(description="Of what is dropped as small.")
    kept: float = Field(description="Of what survives.")
    large: float = Field(description="Of what is dropped as large.")

    @property
    def total(self) -> float:
        """Of the whole task vector."""
        return math.fsum((self.small, self.kept, self.large))


class Histogram(_Schema):
    """Elements by magnitude, in bins of a quarter of an octave; zeros are in none."""

    first_bin: int = Field(
        description="Bin i of the lists holds 2**((first_bin + i) / 4) <= |delta| <"
        " 2**((first_bin + i + 1) / 4), to within the upper 13 bits of a magnitude."
    )
    small: list[int] = Field(description="Elements dropped as small, by bin.")
    kept: list[int] = Field(description="Elements kept, by bin.")
    large: list[int] = Field(description="Elements dropped as large, by bin.")


class Together(_Schema):
    """Squared norms of parts of all task vectors, added up with their weights' signs.

    Weights do not count otherwise, and models whose weight is 0 not at all. Where a
    tensor has one model, they are 0.
    """

    kept: float = Field(description="Of what survives.")
    large: float = Field(
        description="Of what is dropped as large, and of what is dropped as small but"
        " is as large as the upper cut."
    )


class TaskVectorReport(_Schema):
    """What the merge does to one model's task vector of one tensor."""

    model: str = Field(description="The model, as in `models` of the report.")
    weight: float = Field(description="Its weight, as resolved for this tensor.")
    density: float = Field(description="Fraction kept, as resolved for this tensor.")
    gamma: float = Field(description="Fraction dropped as large, as resolved.")
    zero: int = Field(description="Elements that are exactly zero.")
    counts: Counts = Field(description="Elements dropped and kept.")
    squares: Squares = Field(description="Squared norms of the parts.")
    lower_cut: Cut | None = Field(
        description="Least magnitude that is not dropped as small; null where nothing"
        " is dropped as small, or everything."
    )
    upper_cut: Cut | None = Field(
        description="Least magnitude that is dropped as large; null where nothing is"
        " dropped as large, or everything."
    )
    histogram: Histogram = Field(description="Distribution of |delta|.")


class TensorReport(_Schema):
    """What the merge does to one tensor of the output model."""

    name: str = Field(description="The tensor's name in the output model.")
    role: Role = Field(description="What it does in the model, by its name.")
    layer: int | None = Field(description="Layer of the output model, from 0.")
    shape: list[int] = Field(description="Shape as merged, vocabularies aligned.")
    dtype: str = Field(description="dtype in which task vectors are formed.")
    granularity: Literal["tensor", "row"] = Field(description="What a slice is.")
    elements: int = Field(description="Number of elements.")
    base_square: float = Field(description="Squared norm of the base's tensor.")
    overlapping: int = Field(
        description="Elements to which two or more models add something: survivors that"
        " are not zero, of models whose weight is not."
    )
    opposed: int = Field(
        description="How many of these where the signs of weight * survivor differ."
    )
    together: Together = Field(description="Squared norms of sums over the models.")
    vectors: list[TaskVectorReport] = Field(description="One entry for each model.")
    absent: list[str] = Field(description="Models of the merge without this tensor.")


class Report(_Schema):
    """Everything that an inspection finds; `version` changes with its meaning.

    Example:
        >>> report = Report(
        ...     merge_method="breadcrumbs", base_model="org/base", models=["org/math"],
        ...     layer_count=2, layers=None, tensors=[], unmerged=["inv_freq"],
        ... )
        >>> Report.model_validate_json(report.model_dump_json()).unmerged
        ['inv_freq']
    """

    version: Literal[1] = Field(default=1, description="Version of this schema.")
    merge_method: str = Field(description="Merge method of the config.")
    base_model: str = Field(description="The base model.")
    models: list[str] = Field(description="The fine-tuned models, as in the config.")
    layer_count: int = Field(description="Number of layers of the output model.")
    layers: list[int] | None = Field(
        description="The layers that were looked at; null for the whole model."
    )
    tensors: list[TensorReport] = Field(description="Tensors in the planned order.")
    unmerged: list[str] = Field(
        description="Tensors that no model changes by the method: integer buffers, and"
        " those that only the base has."
    )


class Total(NamedTuple):
    """Task vectors of several tensors, added up; the cuts as least and greatest."""

    elements: int
    zero: int
    counts: Counts
    squares: Squares
    base_square: float
    lower_cut: tuple[float, float] | None
    upper_cut: tuple[float, float] | None

    @property
    def norm(self) -> float:
        """L2 norm of the whole task vectors."""
        return math.sqrt(self.squares.total)

    @property
    def norm_ratio(self) -> float:
        """That norm as a share of the base's, or 0 where the base is all zero."""
        if not self.base_square:
            return 0.0
        return math.sqrt(self.squares.total / self.base_square)


def add_up(pairs: Sequence[tuple[TensorReport, TaskVectorReport]]) -> Total:
    """Add up tensors, each with one of its task vectors."""
    vectors = [vector for _, vector in pairs]
    return Total(
        elements=sum(tensor.elements for tensor, _ in pairs),
        zero=sum(v.zero for v in vectors),
        counts=Counts(
            small=sum(v.counts.small for v in vectors),
            kept=sum(v.counts.kept for v in vectors),
            large=sum(v.counts.large for v in vectors),
        ),
        squares=Squares(
            small=math.fsum(v.squares.small for v in vectors),
            kept=math.fsum(v.squares.kept for v in vectors),
            large=math.fsum(v.squares.large for v in vectors),
        ),
        base_square=math.fsum(tensor.base_square for tensor, _ in pairs),
        lower_cut=_span(v.lower_cut for v in vectors),
        upper_cut=_span(v.upper_cut for v in vectors),
    )


def mean_cosine(
    report: Report, part: Literal["kept", "large"], role: Role | None = None
) -> float | None:
    """Return how alike a part of the task vectors is: their mean cosine.

    That is the mean over all pairs of models, in which those with larger norms weigh
    more: 0 where they are unrelated, 1 where all are the same. Models count with the
    signs of their weights.

    Returns:
        The mean, or None where no two models have such a part.
    """
    products, squares = [], []
    for tensor in report.tensors:
        own = [getattr(v.squares, part) for v in tensor.vectors if v.weight]
        if (role is None or tensor.role == role) and len(own) > 1:
            products.append(getattr(tensor.together, part) - math.fsum(own))
            squares.append((len(own) - 1) * math.fsum(own))
    whole = math.fsum(squares)
    return math.fsum(products) / whole if whole else None


def _span(cuts: Iterable[Cut | None]) -> tuple[float, float] | None:
    present = [cut for cut in cuts if cut is not None]
    if not present:
        return None
    return min(c.lowest for c in present), max(c.highest for c in present)


def of_model(
    report: Report, model: str, role: Role | None = None
) -> list[tuple[TensorReport, TaskVectorReport]]:
    """Return a model's task vectors with their tensors, of one role or of all."""
    return [
        (tensor, vector)
        for tensor in report.tensors
        if role is None or tensor.role == role
        for vector in tensor.vectors
        if vector.model == model
    ]
