"""Loading tokenizers as mergekit does, each once, and from this machine alone."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import transformers
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.host.attempt import attempt, first_line, quiet

_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json")
# With its settings one of these is copied as it is; otherwise mergekit loads it first.
_COPIED = ("tokenizer.json", "tokenizer.model")
_SETTINGS = "tokenizer_config.json"


class Loaded(NamedTuple):
    """A tokenizer, or why there is none."""

    tokenizer: Any
    fault: str


class Tokenizers:
    """The tokenizers of this machine, by their directories or names on the hub."""

    def __init__(self, options: MergeOptions) -> None:
        self._trusted = options.trust_remote_code
        self._loaded: dict[tuple[str, str | None], Loaded] = {}

    def load(self, path: str, revision: str | None = None) -> Loaded:
        """Load a tokenizer, unless that has been done."""
        key = path, revision
        if key not in self._loaded:
            self._loaded[key] = self._load(path, revision)
        return self._loaded[key]

    def _load(self, path: str, revision: str | None) -> Loaded:
        endless = _find_no_file(path)
        if endless:
            return Loaded(None, f"its tokenizer cannot be loaded: {endless} is no file")
        with quiet():
            tokenizer, error = attempt(
                transformers.AutoTokenizer.from_pretrained,
                path,
                revision=revision,
                trust_remote_code=self._trusted,
                local_files_only=True,
            )
        if os.path.isdir(path) and not _has_vocabulary(path, tokenizer):
            return Loaded(None, "it has no tokenizer files")
        if tokenizer is None:
            reason = first_line(error or Exception())
            if " " not in reason:
                reason = f"{type(error).__name__}: {reason}"
            return Loaded(None, f"its tokenizer cannot be loaded: {reason}")
        return Loaded(tokenizer, "")


def has_tokenizer(directory: str) -> bool:
    """Whether there is a tokenizer of the usual kinds, as far as names tell."""
    return _has_any(directory, (*_FILES, _SETTINGS, "vocab.json", "vocab.txt"))


def is_copied(directory: str) -> bool:
    """Whether mergekit copies the tokenizer's files without loading it."""
    return _has_any(directory, (_SETTINGS,)) and _has_any(directory, _COPIED)


def _has_vocabulary(directory: str, tokenizer: Any) -> bool:
    """Whether a tokenizer's own files are there.

    Without them transformers makes some kinds out of nothing, with hardly a token.
    """
    if tokenizer is None:
        names, _ = attempt(os.listdir, directory)
        kinds = (".model", ".tiktoken", ".spm")
        return has_tokenizer(directory) or any(n.endswith(kinds) for n in names or ())
    named = getattr(tokenizer, "vocab_files_names", None) or {}
    # Some work on bytes and have no vocabulary.
    return not named or _has_any(directory, (*_FILES, *map(str, named.values())))


def _find_no_file(directory: str) -> str | None:
    """Return what is neither a file nor a directory, such as a pipe, if anything is.

    Whoever reads a pipe waits for ever.
    """
    for name in attempt(os.listdir, directory)[0] or ():
        path = os.path.join(directory, name)
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            return str(name)
    return None


def _has_any(directory: str, names: tuple[str, ...]) -> bool:
    return any(os.path.isfile(os.path.join(directory, name)) for name in names)
