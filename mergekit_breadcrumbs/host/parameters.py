"""The parameters of both methods: names, scopes, defaults, and what is refused."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from mergekit.merge_methods.base import MISSING, ParameterScope, ParameterSpec
from pydantic import AfterValidator, BeforeValidator, ValidationError, WrapValidator

from mergekit_breadcrumbs.host.notices import NOTICES

# mergekit's own default density is 1, which keeps everything and so masks nothing.
DEFAULT_DENSITY = 0.9
DEFAULT_GAMMA = 0.01


DENSITY_IS_UNSET = (
    f"density is not set: {DEFAULT_DENSITY} of each task vector is kept (set density in"
    " the config to choose; 1 keeps everything)"
)


class UnsetDensity(float):
    """The default density, recognisable as one that nobody chose."""


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


def _note_density(value: Any, validate: Callable[[Any], float]) -> float:
    if isinstance(value, UnsetDensity):
        NOTICES.say("density", DENSITY_IS_UNSET)
    else:
        value = validate(value)
    NOTICES.saw_density(value)
    density: float = value
    return density


_Number = Annotated[float, BeforeValidator(_refuse_bool), AfterValidator(_finite)]
_Fraction = Annotated[float, BeforeValidator(_refuse_bool), AfterValidator(_fraction)]
_Density = Annotated[_Fraction, WrapValidator(_note_density)]


@dataclass(frozen=True)
class CheckedParameter(ParameterSpec):  # type: ignore[misc]  # mergekit is untyped
    """A mergekit parameter whose error says what it wants, what it got, and where."""

    must_be: str = ""
    is_fraction: bool = False

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
                f"{self.name} must be {self.must_be}; got {value!r}{_place()}"
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


def _parameter(
    name: str,
    value_type: Any,
    must_be: str,
    default: Any = MISSING,
    scope: ParameterScope = ParameterScope.SHARED,
) -> CheckedParameter:
    return CheckedParameter(name, value_type, scope, default, must_be=must_be)


def _fraction_per_model(name: str, value_type: Any, default: float) -> CheckedParameter:
    return CheckedParameter(
        name, value_type, _PER_MODEL, default, must_be="in [0, 1]", is_fraction=True
    )


_PER_MODEL = ParameterScope.NON_BASE
_BOOL = "true or false"

_ALL = (
    _parameter("weight", _Number, "a finite number", scope=_PER_MODEL),
    _fraction_per_model("density", _Density, UnsetDensity(DEFAULT_DENSITY)),
    _fraction_per_model("gamma", _Fraction, DEFAULT_GAMMA),
    _parameter("lambda", _Number, "a finite number", 1.0),
    _parameter("normalize", bool, _BOOL, False),
    _parameter("rescale", bool, _BOOL, False),
    _parameter("granularity", Literal["tensor", "row"], "'tensor' or 'row'", "tensor"),
    # Existing configs carry it; the mask here costs no memory that int8 would save.
    _parameter("int8_mask", bool, _BOOL, False),
)
PARAMETERS = {parameter.name: parameter for parameter in _ALL}
"""Every parameter of both methods by its name in YAML, in the order of the docs."""
