"""The order in which mergekit went through the models, found by the tokenizer.

With `tokenizer: {source: union}` it decides which number a new token gets, and without
a base which model stands in for it. mergekit itself leaves it to chance.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.verify.remake import (
    OrderedConfig,
    Plan,
    sorted_models,
    tried,
)
from mergekit_breadcrumbs.verify.tokenizer import read_tokenizer

TRIED = 120
"""Orders that are tried: all of five models that bring tokens of their own."""


class _Nothing:
    """Receives no tensor: a plan is only made for its tokenizer."""

    def save_tensor(self, name: str, tensor: object, clone: bool = False) -> None:
        raise AssertionError("this plan is not executed")


def as_merged(
    config: MergeConfiguration, folder: Path, options: MergeOptions
) -> MergeConfiguration:
    """Return the config with its models in an order that makes the folder's tokenizer.

    Where none does, or the order decides nothing, it is the one of their names.
    """
    models = sorted_models(config)
    first = OrderedConfig.of(config, models)
    source = config.tokenizer.source if config.tokenizer else config.tokenizer_source
    if source is None or (source != "union" and config.base_model):
        return first
    found, _ = read_tokenizer(str(folder), options.trust_remote_code)
    if found is None:
        return first
    moving = _with_own_tokens(config, models, options)
    fixed = [model for model in models if model not in moving]
    head = [config.base_model] if config.base_model else []
    rest = [model for model in fixed if model not in head]
    for order in itertools.islice(itertools.permutations(moving), TRIED):
        ordered = OrderedConfig.of(config, [*head, *order, *rest])
        plan, error = tried(Plan, ordered, options, _Nothing())
        if error is not None:
            return first
        tokenizer, error = tried(plan.make_tokenizer)
        if error is None and tokenizer.get_vocab() == found.get_vocab():
            return ordered
    return first


def _with_own_tokens(
    config: MergeConfiguration, models: list[ModelReference], options: MergeOptions
) -> list[ModelReference]:
    """Return the models, but the base, whose place may matter."""
    if config.base_model is None:
        return models
    vocabularies = {}
    for model in models:
        path, revision = model.model.path, model.model.revision
        tokenizer, _ = read_tokenizer(path, options.trust_remote_code, revision)
        vocabularies[model] = set(tokenizer.get_vocab() if tokenizer else ())
    base = vocabularies[config.base_model]
    return [m for m in models if m != config.base_model and vocabularies[m] - base]
