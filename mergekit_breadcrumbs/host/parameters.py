"""The parameters of both methods: names, scopes, defaults, and what is refused."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Any, Literal

from mergekit.merge_methods.base import ParameterScope, ParameterSpec, TensorEntry
from pydantic import ValidationError

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
    names: Sequence[str], tensor: str | None, own: Mapping[str, Sequence[float]]
) -> None:
    """Warn of densities and gammas of one tensor that do not do what they say."""
    densities, gammas = own["density"], own["gamma"]
    if not densities:
        return
    NOTICES.saw_density(min(densities))
    # A norm is merged so fast that to look at each would be felt.
    suspect = max(densities) + max(gammas) > 1
    each = zip(names, densities, gammas, strict=True) if suspect else ()
    for name, density, gamma in each:
        if total := sum_over_one(density, gamma):
            place = f"{name}, tensor {tensor}" if tensor else name
            NOTICES.say(
                "infeasible",
                f"density + gamma is {total}, more than 1, for {place} (said once):"
                " density wins, and fewer of the largest elements are dropped",
            )
    if NOTICES.all_kept():
        NOTICES.say(
            "nothing masked",
            "every density is 1, so nothing is masked: this merge is plain task"
            " arithmetic",
        )


class _UnsetDensity(float):
    """The default density, recognisable as one that nobody chose."""


_UNSET = _UnsetDensity(DEFAULT_DENSITY)


@dataclass(frozen=True)
class CheckedParameter(ParameterSpec):  # type: ignore[misc]  # mergekit is untyped
    """A mergekit parameter whose error says what it wants, what it got, and where.

    `holds` tells which values of the type are allowed, all if it is None.
    """

    scope: ParameterScope = ParameterScope.SHARED
    must_be: str = ""
    holds: Callable[[float], bool] | None = None

    @property
    def is_fraction(self) -> bool:
        """Whether it takes numbers from 0 to 1."""
        return self.holds is _is_fraction

    def validate(self, value: Any) -> Any:
        """Return the value as the parameter's type.

        Raises:
            ValueError: naming the parameter, the value, and, where mergekit is
                resolving a config, the model and the tensor.
        """
        if value is self.default:  # as most are
            return value
        # pydantic and a validator, for every value, took more than twice as long.
        own = value if type(value) is self.value_type else self._converted(value)
        if self.holds is not None and not self.holds(own):
            raise self._refusal(value)
        return own

    def _converted(self, value: Any) -> Any:
        if self.value_type is float and isinstance(value, bool):
            raise self._refusal(value)
        try:
            return super().validate(value)
        except ValidationError:
            raise self._refusal(value) from None

    def _refusal(self, value: Any) -> ValueError:
        return ValueError(
            f"{self.name} must be {self.must_be}; got {one_line(value)}{_place()}"
        )


@dataclass(frozen=True)
class _Density(CheckedParameter):
    """A density, of which it is noted whether it was chosen, and what it is."""

    def validate(self, value: Any) -> Any:
        if isinstance(value, _UnsetDensity):
            NOTICES.say("density", DENSITY_IS_UNSET)
            value = DEFAULT_DENSITY
        density = super().validate(value)
        NOTICES.saw_density(density)
        return density


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


def _is_fraction(value: float) -> bool:
    return 0 <= value <= 1


_PER_MODEL = ParameterScope.NON_BASE
_number = partial(
    CheckedParameter, value_type=float, must_be="a finite number", holds=math.isfinite
)
_FRACTION: Any = {"value_type": float, "must_be": "in [0, 1]", "holds": _is_fraction}
_SLICES: Any = {"value_type": Literal["tensor", "row"], "must_be": "'tensor' or 'row'"}
_flag = partial(
    CheckedParameter, value_type=bool, must_be="true or false", default=False
)

_ALL = (
    _number("weight", scope=_PER_MODEL),
    _Density("density", scope=_PER_MODEL, default=_UNSET, **_FRACTION),
    CheckedParameter("gamma", scope=_PER_MODEL, default=DEFAULT_GAMMA, **_FRACTION),
    _number("lambda", default=1.0),
    _flag("normalize"),
    _flag("rescale"),
    CheckedParameter("granularity", default="tensor", **_SLICES),
    # Existing configs carry it; the mask here costs no memory that int8 would save.
    _flag("int8_mask"),
)
PARAMETERS = {parameter.name: parameter for parameter in _ALL}
"""Every parameter of both methods, by its name in YAML."""


def per_model(
    entries: Sequence[TensorEntry], parameters: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Return weight, density and gamma, each as a list in the order of the models."""
    return {
        name: [parameters[name][entry.id] for entry in entries]
        for name in ("weight", "density", "gamma")
    }
