"""Names of models that are short, and still tell them apart."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 28
"""Characters of a shortened name, unless it takes more to tell two models apart."""


def short_names(models: Sequence[str], longest: int = LONGEST) -> dict[str, str]:
    """Shorten names of models, paths and LoRA adapters included.

    The last part of a path stands for it; where that is another's as well, so do more
    parts. What is still too long loses its middle, as far as the names stay distinct.

    Args:
        models: names as mergekit writes them, all different.
        longest: characters that a shortened name may have.

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
        cut = [_without_middle(name, size) for name in names]
        if len(set(cut)) == len(set(names)):
            return dict(zip(models, cut, strict=True))
        size += 1


def _last_parts(model: str, parts: int) -> str:
    pieces = [piece.rstrip("/").split("/") for piece in model.split("+")]
    return "+".join("/".join(piece[-parts:]) for piece in pieces)


def _without_middle(name: str, size: int) -> str:
    if len(name) <= size:
        return name
    front = size // 2
    return f"{name[:front]}…{name[len(name) - (size - front - 1) :]}"
