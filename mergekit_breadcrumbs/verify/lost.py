"""Which tensors of the base a merge loses, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

_LAYER = re.compile(r"^(.*?\.\d+)\.")
# Buffers of old checkpoints; transformers computes them, and reads them from no file.
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$")


def lost_tensors(
    held: Iterable[str],
    read: Collection[str],
    model_type: str | None,
    *,
    sliced: bool = False,
) -> list[str]:
    """Return the base's tensors that no plan reads and that feed none that is read.

    Args:
        held: names of the base's tensors, as in its files.
        read: all names by which the plan looks for tensors of the base.
        model_type: of the base, which says how transformers renames and joins tensors.
        sliced: whether the config chooses layers; those that it does not are no loss.

    Example:
        >>> held = ["model.layers.0.q.weight", "model.layers.0.q.bias"]
        >>> lost_tensors(held, ["model.layers.0.q.weight"], "llama")
        ['model.layers.0.q.bias']
    """
    read = set(read)
    layers = {match[1] for name in read if (match := _LAYER.match(name))}
    conversions: Callable[[str], Any] = get_checkpoint_conversion_mapping
    transforms = conversions(model_type) if model_type else None
    lost = []
    for name in held:
        match = _LAYER.match(name)
        skipped = sliced and match is not None and match[1] not in layers
        if name in read or skipped or _COMPUTED.search(name):
            continue
        if not _becomes(name, transforms or ()) & read:
            lost.append(name)
    return lost


def _becomes(name: str, transforms: Iterable[Any]) -> set[str]:
    """Return every name that transformers may give a tensor when it loads it."""
    names = {name}
    for transform in transforms:
        for known in list(names):
            renamed, pattern = transform.rename_source_key(known)
            if pattern is None:
                continue
            renames = isinstance(transform, WeightRenaming)
            targets = [] if renames else transform.target_patterns
            names.add(renamed)
            if targets and targets[0] in renamed:
                names |= {renamed.replace(targets[0], t, 1) for t in targets}
    return names
