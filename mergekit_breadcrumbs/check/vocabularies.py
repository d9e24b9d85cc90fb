"""The vocabularies of the models and of the merged one, put together as mergekit does.

It does so when it merges: a fault here stops it only then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from mergekit.common import ModelPath, ModelReference, get_config_value
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions
from mergekit.tokenizer.build import build_union_tokenizer, get_stripped_tokenizer

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.check.tokenizer_files import Tokenizers, has_tokenizer
from mergekit_breadcrumbs.check.tokenizer_source import (
    find_source,
    token_settings,
    tokenizer_setting,
)
from mergekit_breadcrumbs.host.attempt import attempt, first_line, quiet
from mergekit_breadcrumbs.wording import counted

# mergekit adds the tokens of a union one by one, which takes longer and longer.
_QUICKLY_ADDED = 1000


@dataclass
class Vocabularies:
    """The merged model's tokens with their ids, and those of each model.

    `rows` says how many tokens mergekit takes a model to have, by its config.json.
    `assumed` are the models that have no tokenizer, so that it takes the base's;
    `added` the tokens that the base has only because the config adds them.
    """

    place: Place
    base: ModelReference
    out: dict[str, int]
    own: dict[ModelReference, dict[str, int]]
    rows: dict[ModelReference, int]
    assumed: set[ModelReference]
    added: set[str]

    def row_of_each(self, model: ModelReference) -> dict[str, int | None]:
        """Return a model's row for each token: -1 for none, None where mergekit fails.

        It fails at a token that the model's config.json leaves no room for.
        """
        own, rows = self.own[model], self.rows[model]
        found = ((token, own.get(token, -1)) for token in self.out)
        return {token: row if row < rows else None for token, row in found}


def read_vocabularies(
    config: MergeConfiguration,
    models: Mapping[ModelReference, ModelFiles],
    tokenizers: Tokenizers,
    options: MergeOptions,
    problems: Problems,
) -> Vocabularies | None:
    """Build the merged model's vocabulary; report what mergekit would stop with.

    Returns None if there is nothing to build, or if it cannot be built here.
    """
    place, source = tokenizer_setting(config)
    if source is None:
        return None
    chosen = find_source(source, models, place, tokenizers, problems)
    base = config.base_model
    found = {model: models.get(model) for model in config.referenced_models()}
    if base is None or not (files := found[base]) or not files.directory:
        return None
    base_tokenizer = _base_tokenizer(base, files, tokenizers, options, problems)
    here = {m: f for m, f in found.items() if f and f.directory and f.config}
    if base_tokenizer is None or len(here) < len(found):
        return None
    loaded, assumed = {base: base_tokenizer}, set()
    for model, files in here.items():
        if model != base:
            own_tokenizer = tokenizers.load(str(files.directory)).tokenizer
            if own_tokenizer is None:
                assumed.add(model)
                _report_assumed(model, here, base, tokenizers, problems)
            else:
                loaded[model] = own_tokenizer
    own = {m: dict(loaded.get(m, base_tokenizer).get_vocab()) for m in here}
    if source == "base":
        chosen = base_tokenizer
    elif source == "union":
        chosen = _union(base, loaded, here, place, options, problems)
    if chosen is None:
        return None
    out = _with_tokens(chosen, config)
    added: set[str] = set()
    if source == "base":
        # mergekit adds to the very object that it also takes for the base's own.
        added |= out.keys() - own[base].keys()
        own |= dict.fromkeys([base, *assumed], out)
    rows = {model: _rows(files) or len(own[model]) for model, files in here.items()}
    return Vocabularies(place, base, out, own, rows, assumed, added)


def _base_tokenizer(
    base: ModelReference,
    files: ModelFiles,
    tokenizers: Tokenizers,
    options: MergeOptions,
    problems: Problems,
) -> Any:
    """Return the base's tokenizer without the tokens that have no row in the model."""
    directory = str(files.directory)
    tokenizer, fault = tokenizers.load(directory)
    if tokenizer is None:
        # Of a model from the hub only some files may be here.
        if os.path.isdir(base.model.path):
            text = f"{fault}: mergekit needs the base's tokenizer, whatever the source"
            problems.add(Code.NO_TOKENIZER, files.place, text)
        return None
    rows = _rows(files)
    over = [i for i in tokenizer.get_vocab().values() if rows and i >= rows]
    if not over:
        return tokenizer
    with quiet():
        path = ModelPath(path=directory)
        trusted = options.trust_remote_code
        tokenizer, error = attempt(get_stripped_tokenizer, path, trusted)
    if error is not None:
        text = (
            f"its tokenizer has {counted(len(over), 'token')} too many for a vocab_size"
            f" of {rows}, and mergekit cannot take them out: {first_line(error)}"
        )
        problems.add(Code.UNFIT_VOCABULARY, files.place, text)
    return tokenizer


def _report_assumed(
    model: ModelReference,
    found: Mapping[ModelReference, ModelFiles],
    base: ModelReference,
    tokenizers: Tokenizers,
    problems: Problems,
) -> None:
    """Warn where mergekit goes by the base's tokenizer, and it may be the wrong one."""
    directory = str(found[model].directory)
    broken = has_tokenizer(directory)
    sizes = _rows(found[model]), _rows(found[base])
    if not os.path.isdir(model.model.path) or (not broken and sizes[0] == sizes[1]):
        return
    text = f"{tokenizers.load(directory).fault}: mergekit takes the base's instead"
    if sizes[0] != sizes[1]:
        text += f", but its vocab_size is {sizes[0]}, the base's {sizes[1]}"
    problems.add(Code.ASSUMED_TOKENIZER, found[model].place, text)


def _union(
    base: ModelReference,
    loaded: Mapping[ModelReference, Any],
    found: Mapping[ModelReference, ModelFiles],
    place: Place,
    options: MergeOptions,
    problems: Problems,
) -> Any:
    known = loaded[base].get_vocab().keys()
    new = {token for other in loaded.values() for token in other.get_vocab()} - known
    if len(new) > _QUICKLY_ADDED:
        return None
    # By their directories, so that nothing is looked up on the hub.
    local = {
        ModelReference(model=ModelPath(path=found[model].directory)): tokenizer
        for model, tokenizer in loaded.items()
    }
    trusted = options.trust_remote_code
    with quiet():
        union, error = attempt(build_union_tokenizer, loaded[base], local, trusted)
    if error is not None:
        text = f"mergekit cannot join the tokenizers: {first_line(error)}"
        problems.add(Code.UNFIT_VOCABULARY, place, text)
    return union


def _with_tokens(tokenizer: Any, config: MergeConfiguration) -> dict[str, int]:
    """Return the vocabulary by id, with the tokens that the config adds."""
    known = tokenizer.get_vocab()
    for token in token_settings(config):
        if token not in known:
            attempt(tokenizer.add_tokens, token)
    return dict(sorted(tokenizer.get_vocab().items(), key=itemgetter(1)))


def _rows(files: ModelFiles) -> int | None:
    """Return the vocabulary's size by the model's config.json."""
    key = getattr(files.architecture, "vocab_size_config_key", None) or "vocab_size"
    size, _ = attempt(get_config_value, files.config, key)
    return size if isinstance(size, int) else None
