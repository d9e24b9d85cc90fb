"""Whether a number stands for the same token in all models.

It has to where the config chooses no tokenizer: then rows of the embeddings are merged
by number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.tokenizer_files import Tokenizers
from mergekit_breadcrumbs.check.tokenizer_source import tokenizer_setting
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.wording import counted, visible

_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "tekken.json"),
    *("spiece.model", "sentencepiece.bpe.model"),
)


def check_numbering(
    config: MergeConfiguration,
    models: Mapping[ModelReference, ModelFiles],
    tokenizers: Tokenizers,
    problems: Problems,
) -> None:
    """Warn of tokens whose rows are merged with those of other tokens."""
    if tokenizer_setting(config)[1] is not None:
        return
    here = {m: f.directory for m, f in models.items() if f.directory}
    if len(set(map(_digest, here.values()))) < 2:
        return
    known: dict[int, tuple[str, ModelReference]] = {}
    for model in sorted(here, key=lambda model: model != config.base_model):
        tokenizer = tokenizers.load(here[model]).tokenizer
        own = {} if tokenizer is None else tokenizer.get_vocab()
        others = [(i, t) for t, i in own.items() if known.get(i, (t,))[0] != t]
        if others:
            number, token = min(others)
            other, where = known[number]
            whose = "the base" if where == config.base_model else str(where)
            text = (
                f"its tokenizer gives {counted(len(others), 'number')} to other tokens,"
                f" such as {number} to {token!r} ({other!r} in {whose}): rows of the"
                " embeddings are merged by number; tokenizer: {source: union} merges"
                " them by token"
            )
            problems.add(Code.NUMBERED_OTHERWISE, models[model].place, visible(text))
        known |= {i: (t, model) for t, i in own.items() if i not in known}


def _digest(directory: str) -> bytes:
    """Return what is the same for directories with the same tokenizer."""
    digest = hashlib.sha256()
    for name in _FILES:
        path = Path(directory, name)
        content, _ = attempt(path.read_bytes) if path.is_file() else (None, None)
        if content is not None:
            digest.update(name.encode() + hashlib.sha256(content).digest())
    return digest.digest()
