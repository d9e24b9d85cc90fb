"""The files of a model on the hub, and which of them mergekit downloads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import quote

from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.wire import Answer, HubError, read
from mergekit_breadcrumbs.host.attempt import attempt

Sizes: TypeAlias = dict[str, int | None]
"""Names of files with their sizes in bytes, None where the hub does not say."""

LARGEST_UNKNOWN = 4 * 10**6
"""How many bytes are read of what has no size known beforehand."""


def list_files(path: str, revision: str | None, until: float) -> tuple[str, Sizes]:
    """Return the commit that a revision is now, and its files with their sizes.

    Raises:
        HubError: if the hub does not list them before `until`.
    """
    url = f"{constants.ENDPOINT}/api/models/{path}"
    here = f"{url}/revision/{quote(revision, safe='')}" if revision else url
    info = _parsed(read(f"{here}?blobs=true", LARGEST_UNKNOWN, until))
    siblings = info.get("siblings") if isinstance(info, dict) else None
    if not isinstance(siblings, list):
        text = "the hub's answer is no list of files: is HF_ENDPOINT right?"
        raise HubError(Code.MODEL_NOT_CHECKED, text)
    commit = info.get("sha")
    if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
        commit = revision or constants.DEFAULT_REVISION
    sizes = _sizes(siblings, "rfilename")
    if None in needed_files(sizes).values():
        tree = f"{url}/tree/{quote(commit, safe='')}?recursive=true"
        try:
            entries = _parsed(read(tree, LARGEST_UNKNOWN, until))
        except HubError:  # sizes are good to have, but not needed
            entries = []
        listed = _sizes(entries if isinstance(entries, list) else [], "path")
        sizes = {n: listed.get(n) if s is None else s for n, s in sizes.items()}
    return commit, sizes


def needed_files(sizes: Mapping[str, int | None]) -> Sizes:
    """Return those of the files that mergekit downloads."""
    safe = any(name.lower().endswith(".safetensors") for name in sizes)
    patterns = ["tokenizer.model", "*.json", "*.safetensors" if safe else "*.bin"]
    return {n: sizes[n] for n in filter_repo_objects(sizes, allow_patterns=patterns)}


def is_pickled(needed: Mapping[str, int | None]) -> bool:
    """Whether mergekit would read pickled weights."""
    names = ("pytorch_model.bin", "pytorch_model.bin.index.json")
    safe = any(name.lower().endswith(".safetensors") for name in needed)
    return not safe and any(name in needed for name in names)


def _parsed(answer: Answer) -> Any:
    return attempt(json.loads, answer.content)[0]


def _sizes(entries: list[Any], key: str) -> Sizes:
    """Return the sizes of the files of a listing whose names lead nowhere else."""
    sizes: Sizes = {}
    for entry in entries:
        name = entry.get(key) if isinstance(entry, dict) else None
        if isinstance(name, str) and re.fullmatch(r"(\w[\w.+ -]*/)*\w[\w.+ -]*", name):
            size = entry.get("size")
            sizes[name] = size if type(size) is int and size >= 0 else None
    return sizes
