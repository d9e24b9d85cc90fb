"""Names of models, shortened but still distinct."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 28
"""Characters of a shortened name, unless it takes more to tell two models apart."""


def short_names(models: Sequence[str], longest: int = LONGEST) -> dict[str, str]:
    """Shorten names of models, paths and LoRA adapters included.

    A path is shortened to its last part, or to more parts where names would be equal.
    What is still too long loses its middle, as far as the names stay distinct.

    Example:
        >>> list(short_names(["/models/math", "org/code", "base+/tmp/lora"]).values())
        ['math', 'code', 'base+lora']
        >>> list(short_names(["/a/final", "/b/final"]).values())
        ['a/final', 'b/final']
    """
    parts = 1
    deepest = max((model.count("/") for model in models), default=0) + 1
    names = [_last_parts(model, parts) for model in models]
    while len(set(names)) < len(names) and parts < deepest:
        parts += 1
        names = [_last_parts(model, parts) for model in models]
    size = longest
    while True:
        shortened = [_without_middle(name, size) for name in names]
        if len(set(shortened)) == len(set(names)):
            return dict(zip(models, shortened, strict=True))
        size += 1


def _last_parts(model: str, parts: int) -> str:
    pieces = [piece.rstrip("/").split("/") for piece in model.split("+")]
    return "+".join("/".join(piece[-parts:]) for piece in pieces)


def _without_middle(name: str, size: int) -> str:
    if len(name) <= size:
        return name
    front = size // 2
    return f"{name[:front]}…{name[len(name) - (size - front - 1) :]}"
