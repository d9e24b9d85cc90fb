"""The parameters of both methods: names, scopes, defaults, and what is refused."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Annotated, Any, Literal

from mergekit.merge_methods.base import ParameterScope, ParameterSpec, TensorGroup
from pydantic import AfterValidator, BeforeValidator, ValidationError

from mergekit_breadcrumbs.host.notices import NOTICES
from mergekit_breadcrumbs.wording import one_line

# mergekit's own default density is 1, which keeps everything and so masks nothing.
DEFAULT_DENSITY = 0.9
DEFAULT_GAMMA = 0.01


DENSITY_IS_UNSET = (
    f"density is not set: {DEFAULT_DENSITY} of each task vector is kept (set density in"
    " the config to choose; 1 keeps everything)"
)


def sum_over_one(density: float, gamma: float) -> str:
    """Return density + gamma where that is more than 1, for a message; else nothing.

    Sums that are 1 but for rounding are 1, and density 1 says plainly that everything
    is wanted: gamma is then its default.

    Example:
        >>> sum_over_one(0.9, 0.2), sum_over_one(0.7, 0.3 + 1e-16), sum_over_one(1, 0.5)
        ('1.1', '', '')
    """
    total = density + gamma
    return f"{total:.10g}" if density < 1 and total > 1 + 1e-9 else ""


MANY, STRONG, DENSE = 16, 0.5, 0.5
"""From so many models on, at such weights, so large a density is too large.

In `benchmarks/claims.py` 16 experts of one recipe, weights and lambda 1, kept 67 % of
their accuracy with density 0.9, and 88 with 0.1 by row; 35 kept 34 % and 82.
"""


def too_dense(
    weights: Sequence[float],
    densities: Sequence[float],
    scale: float,
    normalize: bool = False,
) -> str:
    """Say that many models add up to too much, or nothing where they do not.

    Example:
        >>> too_dense([0.5] * 3, [0.9] * 3, 1.0)
        ''
        >>> too_dense([1.0] * 20, [0.9] * 20, 1.0).partition(";")[0]
        '20 models with density 0.9 and weights of 1 change the base a lot'
    """
    if len(weights) < MANY or normalize:
        return ""
    each = abs(scale) * fmean(map(abs, weights))
    density = median(densities)
    if each < STRONG or density < DENSE:
        return ""
    return (
        f"{len(weights)} models with density {density:g} and weights of {each:.2g}"
        " change the base a lot; density 0.1 with granularity row usually keeps more of"
        " what they know (docs/choosing.md)"
    )


def warn_of_many(own: Mapping[str, Sequence[float]], shared: Mapping[str, Any]) -> None:
    """Warn, for one tensor, of many models that are merged with little dropped."""
    values = own["weight"], own["density"], shared["lambda"], shared["normalize"]
    if text := too_dense(*values):
        NOTICES.say("many models", text)


def warn_of_fractions(
    names: Sequence[str],
    tensor: str | None,
    densities: list[float],
    gammas: list[float],
) -> None:
    """Warn of densities and gammas of one tensor that do not do what they say."""
    for name, density, gamma in zip(names, densities, gammas, strict=True):
        NOTICES.saw_density(density)
        if total := sum_over_one(density, gamma):
            place = f"{name}, tensor {tensor}" if tensor else name
            NOTICES.say(
                "infeasible",
                f"density + gamma is {total}, more than 1, for {place} (said once):"
                " density wins, and fewer of the largest elements are dropped",
            )
    if densities and NOTICES.all_kept():
        NOTICES.say(
            "nothing masked",
            "every density is 1, so nothing is masked: this merge is plain task"
            " arithmetic",
        )


class _UnsetDensity(float):
    """The default density, recognisable as one that nobody chose."""


_UNSET = _UnsetDensity(DEFAULT_DENSITY)


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a bool is not a number")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("not finite")
    return value


def _fraction(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("outside [0, 1]")
    return value


def _note_unset(value: Any) -> Any:
    if isinstance(value, _UnsetDensity):
        NOTICES.say("density", DENSITY_IS_UNSET)
    return value


def _note_density(value: float) -> float:
    NOTICES.saw_density(value)
    return value


_Number = Annotated[float, BeforeValidator(_refuse_bool), AfterValidator(_finite)]
_Fraction = Annotated[float, BeforeValidator(_refuse_bool), AfterValidator(_fraction)]
_Density = Annotated[
    _Fraction, BeforeValidator(_note_unset), AfterValidator(_note_density)
]


@dataclass(frozen=True)
class CheckedParameter(ParameterSpec):  # type: ignore[misc]  # mergekit is untyped
    """A mergekit parameter whose error says what it wants, what it got, and where."""

    scope: ParameterScope = ParameterScope.SHARED
    must_be: str = ""

    @property
    def is_fraction(self) -> bool:
        """Whether it takes numbers from 0 to 1."""
        return self.value_type in (_Fraction, _Density)

    def validate(self, value: Any) -> Any:
        """Return the value as the parameter's type.

        Raises:
            ValueError: naming the parameter, the value, and, where mergekit is
                resolving a config, the model and the tensor.
        """
        try:
            return super().validate(value)
        except ValidationError:
            raise ValueError(
                f"{self.name} must be {self.must_be}; got {one_line(value)}{_place()}"
            ) from None


def _place() -> str:
    """Say which model and tensor mergekit is resolving a parameter for.

    mergekit does not tell the validator, and an error without the place is of little
    use in a config with a dozen models. So on this path, and on no other, look at the
    local variables of the caller that knows.
    """
    known: dict[str, Any] = {}
    frame = sys._getframe(2)
    while frame is not None:
        home, local = frame.f_globals.get("__name__", ""), frame.f_locals
        if home == "mergekit.parameter_resolver":
            known.setdefault("model", local.get("model"))
            known.setdefault("tensor", local.get("tensor_name"))
            break
        if home == "mergekit.merge_methods.base":
            # From Python 3.12 on a comprehension shares the frame that it is in.
            if "key" in local:
                known.setdefault("model", local["key"])
            if "group" in local:
                known.setdefault("tensor", local["group"].metadata.name)
                break
        frame = frame.f_back  # type: ignore[assignment]
    places = [f"{k} {v}" for k, v in known.items() if v is not None]
    return f" for {', '.join(places)}" if places else ""


_PER_MODEL = ParameterScope.NON_BASE
_Granularity = Literal["tensor", "row"]
_FINITE, _RANGE, _BOOL = "a finite number", "in [0, 1]", "true or false"

_ALL = (
    CheckedParameter("weight", _Number, _PER_MODEL, must_be=_FINITE),
    CheckedParameter("density", _Density, _PER_MODEL, _UNSET, must_be=_RANGE),
    CheckedParameter("gamma", _Fraction, _PER_MODEL, DEFAULT_GAMMA, must_be=_RANGE),
    CheckedParameter("lambda", _Number, default=1.0, must_be=_FINITE),
    CheckedParameter("normalize", bool, default=False, must_be=_BOOL),
    CheckedParameter("rescale", bool, default=False, must_be=_BOOL),
    CheckedParameter(
        "granularity", _Granularity, default="tensor", must_be="'tensor' or 'row'"
    ),
    # Existing configs carry it; the mask here costs no memory that int8 would save.
    CheckedParameter("int8_mask", bool, default=False, must_be=_BOOL),
)
PARAMETERS = {parameter.name: parameter for parameter in _ALL}
"""Every parameter of both methods, by its name in YAML."""


def per_model(
    group: TensorGroup, parameters: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Return weight, density and gamma, each as a list in the order of the models."""
    return {
        name: [parameters[name][entry.id] for entry in group.non_base]
        for name in ("weight", "density", "gamma")
    }
