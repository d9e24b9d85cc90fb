"""The order in which mergekit went through the models, found by the tokenizer.

With `tokenizer: {source: union}` it decides which number a new token gets, and without
a base which model stands in for it. mergekit itself leaves it to chance; and to chance
again, which number each of a model's own tokens gets.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from mergekit.common import ModelPath, ModelReference
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

    Where none does, or the order decides nothing, it is the one of their names. If the
    folder's tokenizer is then one that mergekit may make, it is asked for by name.
    """
    models = sorted_models(config)
    first = OrderedConfig.of(config, models)
    source = config.tokenizer.source if config.tokenizer else config.tokenizer_source
    if source is None or (source != "union" and config.base_model):
        return first
    found, _ = read_tokenizer(str(folder), options.trust_remote_code)
    if found is None:
        return first
    head = [config.base_model] if config.base_model else []
    vocabularies = {m: _vocabulary(m, options) for m in models if head}
    own = vocabularies.get(config.base_model, set())
    moving = [m for m in models if not head or vocabularies[m] - own]
    rest = [model for model in models if model not in {*head, *moving}]
    made = None
    for order in itertools.islice(itertools.permutations(moving), TRIED):
        ordered = OrderedConfig.of(config, [*head, *order, *rest])
        plan, error = tried(Plan, ordered, options, _Nothing())
        if error is not None:
            return first
        tokenizer, error = tried(plan.make_tokenizer)
        if error is not None:
            continue
        if tokenizer.get_vocab() == found.get_vocab():
            return ordered
        if made is None:
            made, _ = tried(plan.make_tokenizer)
            if made is not None and made.get_vocab() != tokenizer.get_vocab():
                break
    if head and made is not None and _same_but_for_numbers(found, made, own):
        return _with_tokenizer_of(folder, first)
    return first


def _vocabulary(model: ModelReference, options: MergeOptions) -> set[str]:
    path, revision = model.model.path, model.model.revision
    tokenizer, _ = read_tokenizer(path, options.trust_remote_code, revision)
    return set(tokenizer.get_vocab() if tokenizer else ())


def _same_but_for_numbers(one: Any, other: Any, fixed: set[str]) -> bool:
    """Whether two tokenizers are the same but for the numbers of tokens not fixed."""
    numbers, others = one.get_vocab(), other.get_vocab()
    return (
        numbers.keys() == others.keys()
        and set(numbers.values()) == set(others.values())
        and all(numbers[token] == others[token] for token in fixed & numbers.keys())
        and one.special_tokens_map == other.special_tokens_map
    )


def _with_tokenizer_of(folder: Path, config: OrderedConfig) -> OrderedConfig:
    """Return a config that asks for the tokenizer of a folder."""
    source = ModelReference(model=ModelPath(path=str(folder)))
    update: dict[str, Any] = {"tokenizer_source": source}
    if config.tokenizer:
        update = {"tokenizer": config.tokenizer.model_copy(update={"source": source})}
    copy: OrderedConfig = config.model_copy(update=update)
    return copy
