"""Whether a merged folder has the tokenizer that its config asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.host.attempt import attempt, first_line
from mergekit_breadcrumbs.verify.faults import Fault
from mergekit_breadcrumbs.wording import counted, listed, visible

_SETTINGS = "tokenizer_config.json"
_FAST = ("tokenizer.json", "tokenizer.model")
_VOCABULARIES = (
    *_FAST,
    *("vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
)
# What mergekit copies beside these, and a tokenizer is not the same without.
_COPIED = (
    *("special_tokens_map.json", "added_tokens.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json"),
)
_MERGEKIT = {_SETTINGS, *_FAST, *_COPIED}


def check_tokenizer(
    folder: Path,
    config: MergeConfiguration,
    donors: Sequence[tuple[ModelReference, Path]],
    made: Any,
    trust_remote_code: bool,
) -> list[Fault]:
    """Compare the folder's tokenizer with the one that the merge makes or copies.

    Args:
        donors: the models, with their folders, that mergekit may copy from where the
            config asks for nothing: the base, or any where there is none.
        made: the tokenizer that mergekit makes in memory, None if it copies.
    """
    faults: list[Fault] = []
    for donor in donors:
        found = _compare(folder, config, donor, made, trust_remote_code)
        if not found:
            return []
        faults = faults or found
    return faults


def _compare(
    folder: Path,
    config: MergeConfiguration,
    donor: tuple[ModelReference, Path],
    made: Any,
    trust_remote_code: bool,
) -> list[Fault]:
    model, path = donor
    copied = made is None and not config.chat_template and model.lora is None
    lacking = _lacking(folder, path, made=made is not None, copied=copied)
    if lacking:
        text = f"there is no {listed(lacking, 3)}"
        text += "" if made is not None else f", which {model.model} has"
        return [Fault(Code.TOKENIZER_MISSING, visible(text))]
    there = [f for f in _VOCABULARIES if (folder / f).is_file()]
    if not there or (made is None and _same_files(folder, path)):
        return []
    ours, error = read_tokenizer(str(folder), trust_remote_code)
    if ours is None:
        reason = visible(first_line(error or ValueError()))
        return [
            Fault(Code.TOKENIZER_DIFFERS, f"the tokenizer cannot be read: {reason}")
        ]
    theirs = made
    if theirs is None:
        theirs, _ = read_tokenizer(str(path), trust_remote_code)
    if theirs is None:
        return []
    return [
        Fault(Code.TOKENIZER_DIFFERS, f"the tokenizer is not the merge's: {text}")
        for text in _apart(ours, theirs, copied=copied)
    ]


def _apart(ours: Any, theirs: Any, *, copied: bool) -> list[str]:
    """Say how two tokenizers differ.

    Of one that was `copied`, chat template and steps are the same as well; one that was
    loaded and saved may have others.
    """
    texts = []
    one, other = ours.get_vocab(), theirs.get_vocab()
    wrong = [t for t in {**other, **one} if one.get(t) != other.get(t)]
    if wrong:
        text = counted(len(wrong), "token")
        texts.append(f"{text} differ, such as {visible(wrong[0])!r}")
    if ours.special_tokens_map != theirs.special_tokens_map:
        texts.append("it has other special tokens")
    if copied and ours.chat_template != theirs.chat_template:
        texts.append("it has another chat template")
    if copied:
        one, other = _steps(ours), _steps(theirs)
        steps = sorted(s for s in {**one, **other} if one.get(s) != other.get(s))
        if steps:
            texts.append(f"it splits text by other rules: {listed(steps, 3)}")
    return texts


def _steps(tokenizer: Any) -> dict[str, Any]:
    """Return what a tokenizer does with text, by the names in `tokenizer.json`.

    Those of one that is written in Python are not known.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {}
    parts = json.loads(backend.to_str())
    steps = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    model = {key: value for key, value in parts["model"].items() if key != "vocab"}
    return model | {step: parts[step] for step in steps}


def _lacking(folder: Path, donor: Path, *, made: bool, copied: bool) -> list[str]:
    """Return the files of a tokenizer that should be there and are not."""
    has = {f for f in (_SETTINGS, *_VOCABULARIES, *_COPIED) if (donor / f).is_file()}
    if not made and not has & {_SETTINGS, *_VOCABULARIES}:
        return []
    if copied and _SETTINGS in has and has & set(_FAST):
        return [f for f in sorted(has & _MERGEKIT) if not (folder / f).is_file()]
    names = [] if (folder / _SETTINGS).is_file() else [_SETTINGS]
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        names.append(_FAST[0])
    return names


def _same_files(folder: Path, donor: Path) -> bool:
    """Whether a copied tokenizer is the donor's to the byte: then none is loaded."""
    names = {*_VOCABULARIES, *_MERGEKIT}
    pairs = [(folder / name, donor / name) for name in names]
    return all(
        one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()
        for one, other in pairs
        if one.is_file() or other.is_file()
    )


def read_tokenizer(
    folder: str, trust_remote_code: bool, revision: str | None = None
) -> tuple[Any, Exception | None]:
    """Return the tokenizer of a model, or None and why there is none."""
    return attempt(
        transformers.AutoTokenizer.from_pretrained,
        folder,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
