"""Which tensors of a checkpoint mergekit reads for a weight that it has planned."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple, TypeAlias

import torch
from mergekit.architecture import WeightInfo
from mergekit.architecture.conversion import convert_checkpoint_tensors

Shape: TypeAlias = tuple[int, ...]

_LAYER = re.compile(r"\.(\d+)\.")


class Found(NamedTuple):
    """The tensors that a weight is made of, and its shape (None if not known).

    `tied` says that it is read under the name of another weight, which stands for it
    where a model ties the two.
    """

    names: tuple[str, ...]
    shape: Shape | None
    tied: bool = False


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a tensor is in, None if it is in none.

    Example:
        >>> layer_of("model.layers.7.mlp.experts.3.up_proj.weight"), layer_of("norm")
        (7, None)
    """
    match = _LAYER.search(name)
    return int(match[1]) if match else None


class Lookup:
    """Finds weights in one checkpoint as mergekit does.

    Args:
        model_type: the one of the model's config.json.
        names: of the tensors that mergekit knows of.
        shapes: their shapes, as far as they are known.
    """

    def __init__(
        self,
        model_type: str | None,
        names: Iterable[str],
        shapes: Mapping[str, Shape | None],
    ) -> None:
        self._model_type, self._shapes = model_type, shapes
        self.names = set(names)
        of_layer: dict[int | None, list[_Tensor]] = {}
        for name in sorted(self.names):
            tensor = name, shapes.get(name)
            of_layer.setdefault(layer_of(name), []).append(tensor)
        self._of_layer = {layer: tuple(held) for layer, held in of_layer.items()}

    def has(self, weight: WeightInfo) -> bool:
        """Whether an optional weight is seen when the merge is planned."""
        return any(name in self.names for name in (weight.name, *_aliases(weight)))

    def find(self, weight: WeightInfo) -> Found | None:
        """Return what is read for a weight when the merge is executed."""
        own = (weight.name, *_aliases(weight))
        for name in (*own, *(weight.tied_names or ())):
            if name in self.names:
                return Found((name,), self._shapes.get(name), name not in own)
        for target in own:
            found = self._converted(target)
            if found is not None:
                return found
        return None

    def _converted(self, target: str) -> Found | None:
        """Try transformers' own conversions, with tensors that have no content.

        A layer is made of tensors of the same layer. Looking among those alone first
        saves hours in a model with thousands of experts.
        """
        near = dict.fromkeys((layer_of(target), None))
        layers = tuple(self._of_layer.get(layer, ()) for layer in near)
        everything = tuple(self._of_layer.values())
        found = _convert(self._model_type, target, layers)
        return found or _convert(self._model_type, target, everything)


_Tensor: TypeAlias = tuple[str, Shape | None]


# A model and its fine-tunings have the same tensors, and ask for them several times.
@lru_cache(maxsize=10_000)
def _convert(
    model_type: str | None, target: str, layers: tuple[tuple[_Tensor, ...], ...]
) -> Found | None:
    read: list[str] = []

    def empty(name: str, shape: Shape | None) -> torch.Tensor:
        read.append(name)
        return torch.empty(shape or (1,), device="meta")

    sources: dict[str, Callable[[], torch.Tensor]] = {
        name: partial(empty, name, shape) for held in layers for name, shape in held
    }
    try:
        made = convert_checkpoint_tensors(model_type, sources, target)
    # Whatever mergekit and transformers stop with: such a weight is not made.
    except Exception:
        return None
    return None if made is None else Found(tuple(read), tuple(made.shape))


def _aliases(weight: WeightInfo) -> tuple[str, ...]:
    return tuple(weight.aliases or ())
