"""The parameters of mergekit's merge methods, ours among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergekit.merge_methods import get, registered_methods
from mergekit.merge_methods.base import ParameterScope

from mergekit_breadcrumbs.wording import did_you_mean, one_line


@dataclass(frozen=True)
class Method:
    """The parameters of a merge method.

    `numbers` are the names of those that can be searched; `defaults` has those that
    need not be set; models cannot have their own of those that are `shared`.
    """

    name: str
    names: frozenset[str]
    numbers: tuple[str, ...]
    defaults: dict[str, Any]
    shared: frozenset[str]


def method_of(name: object) -> Method:
    """Return a merge method's parameters, as mergekit's registry has them.

    Raises:
        ValueError: if mergekit has no such method.
    """
    known = [method.spec.name for method in registered_methods()]
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"mergekit has no merge method {one_line(name)}{hint}")
    method = get(name)
    parameters = method.spec.parameters
    # task_arithmetic takes a density, and does nothing with it.
    dense = getattr(method, "sparsification_method", "none of mergekit's") is None
    return Method(
        name=str(name),
        names=frozenset(p.name for p in parameters),
        numbers=tuple(
            p.name
            for p in parameters
            if _is_number(p) and not (dense and p.name == "density")
        ),
        defaults={p.name: p.default for p in parameters if not p.required},
        shared=frozenset(
            p.name for p in parameters if p.scope == ParameterScope.SHARED
        ),
    )


def _is_number(parameter: Any) -> bool:
    try:
        # Neither a bool nor a count takes this for what it is.
        value = parameter.validate(0.5)
    except ValueError:
        return False
    return isinstance(value, float) and value == 0.5
