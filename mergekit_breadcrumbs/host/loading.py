"""What transformers makes of a checkpoint, by the names and shapes of its tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import transformers
from transformers.utils import logging

from mergekit_breadcrumbs.host.lookup import Shape


class Loaded(NamedTuple):
    """How a checkpoint fits its architecture.

    `missing` are weights that it lacks, which transformers would make up; `expected`
    are the names of all weights.
    """

    missing: frozenset[str]
    expected: frozenset[str]


def load(config: Any, shapes: Mapping[str, Shape | None]) -> Loaded | None:
    """Have transformers load tensors of these names and shapes, all without content.

    Nothing is read, and no memory is taken. Returns None where transformers has no such
    architecture of its own, or cannot make it.
    """
    names = getattr(config, "architectures", None) or [""]
    model_class = getattr(transformers, str(names[0]), None)
    if model_class is None or None in shapes.values():
        return None
    config = copy.deepcopy(config)
    # Unquantised weights are what is asked about.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    tensors = {
        name: torch.empty(shape or (), device="meta") for name, shape in shapes.items()
    }
    try:
        with quietly():
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                device_map="meta",
                attn_implementation="eager",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    # transformers raises anything for a config that does not fit its class.
    except Exception:
        return None
    return Loaded(frozenset(info["missing_keys"]), frozenset(model.state_dict()))


@contextmanager
def quietly() -> Iterator[None]:
    """Show neither progress nor warnings of transformers for a while."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
