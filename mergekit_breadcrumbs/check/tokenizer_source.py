"""What chooses the merged model's tokenizer: `tokenizer` or `tokenizer_source`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import huggingface_hub
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.paths import is_hub_name
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.check.tokenizer_files import Tokenizers
from mergekit_breadcrumbs.wording import did_you_mean, one_line

_KEYWORDS = ("union", "base")


def tokenizer_setting(config: MergeConfiguration) -> tuple[Place, Any]:
    """Return where the tokenizer is chosen, and by what; None if it is not."""
    if config.tokenizer is not None:
        return ("tokenizer", "source"), config.tokenizer.source
    return ("tokenizer_source",), config.tokenizer_source


def find_source(
    source: Any,
    models: Mapping[ModelReference, ModelFiles],
    place: Place,
    tokenizers: Tokenizers,
    problems: Problems,
) -> Any:
    """Return the tokenizer of a model that is the source; None if there is none."""
    if not isinstance(source, ModelReference):
        return None
    path, revision = source.model.path, source.model.revision
    same = (f.directory for m, f in models.items() if m.model == source.model)
    path = next((directory for directory in same if directory), path)
    loaded = tokenizers.load(path, revision)
    if loaded.tokenizer is not None or problems.cover(place):
        return loaded.tokenizer
    if os.path.isdir(path):
        if path == source.model.path:
            text = f"{one_line(path)} cannot be the source: {loaded.fault}"
            problems.add(Code.NO_TOKENIZER, place, text)
        return None
    hint = did_you_mean(path, _KEYWORDS) if "/" not in path else ""
    if path.startswith("model:"):
        hint = f"; write {path.removeprefix('model:')}"
    # Whatever else may be a name on the hub.
    if not is_hub_name(path) or hint or huggingface_hub.constants.HF_HUB_OFFLINE:
        text = "must be union, base or a model that has a tokenizer"
        text += f"; there is no directory {one_line(path)}{hint}"
        problems.add(Code.UNKNOWN_TOKENIZER_SOURCE, place, text)
    return None


def token_settings(config: MergeConfiguration) -> dict[str, Any]:
    """Return what `tokenizer.tokens` says of each token."""
    return dict((config.tokenizer and config.tokenizer.tokens) or {})
