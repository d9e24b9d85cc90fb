"""A model of the hub in a directory here: small files whole, of weights the headers.

A file of weights is a hole of its full size behind its header. It takes no room, and
everything that reads headers reads it like the file itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import hf_hub_url, try_to_load_from_cache
from mergekit.common import ModelPath

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.listing import (
    LARGEST_UNKNOWN,
    Sizes,
    is_pickled,
    list_files,
    needed_files,
)
from mergekit_breadcrumbs.check.wire import LOG_IN, Answer, HubError, deadline, read
from mergekit_breadcrumbs.files.manifest import NAME, STEM
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.wording import one_line

_SMALL = (
    "*config*.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    NAME,
    f"{STEM}.safetensors.index.json",
    "*tokeni[sz]er*",
    "*.model",
    "vocab*",
    "merges*",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "tekken.json",
)
_VOCABULARIES = ("*tokeni[sz]er*", "*.model", "vocab*", "merges*", "tekken.json")
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors", f"{STEM}.safetensors")
_MEGABYTE = 10**6
_LARGEST_SMALL = 16 * _MEGABYTE
_LARGEST_VOCABULARY = 48 * _MEGABYTE
_LARGEST_HEADER = 8 * _MEGABYTE
# What one request asks for where the header's length is not known yet.
_FIRST_BYTES = 100_000


@dataclass
class HubModel:
    """A model of the hub, as far as it can be checked from `directory`.

    `name` is what the config calls it.

    `sizes` has the bytes of each file that mergekit would need, None where the hub does
    not say, and `cached` those of them that need no download. `pickled` says that the
    weights are pickles, of which no header can be read, and are not in the directory.
    """

    directory: str
    sizes: Sizes = field(default_factory=dict)
    cached: set[str] = field(default_factory=set)
    pickled: bool = False
    name: ModelPath | None = None


@dataclass(frozen=True)
class Repository:
    """Where a model is, and how its files are read."""

    path: str
    revision: str | None
    cache_dir: str | None
    with_code: bool

    def copy(self, directory: Path) -> HubModel:
        """Read the model into a directory that does not exist yet.

        Raises:
            HubError: if it cannot be had, or cannot be kept here.
        """
        until = deadline()
        commit, sizes = list_files(self.path, self.revision, until)
        model = HubModel(str(directory), needed_files(sizes))
        model.pickled = is_pickled(model.sizes)
        model.cached = {name for name in model.sizes if self._cached(name, commit)}
        copier = _Copier(self, commit, sizes, directory, until)
        patterns = (*_SMALL, "*.py") if self.with_code else _SMALL
        try:
            directory.mkdir()
            with ThreadPoolExecutor(8) as pool:
                small = [n for n in sizes if _is_like(n, patterns) and "/" not in n]
                list(pool.map(copier.copy, small))
                shards = {*_WEIGHTS, *_indexed(directory)} & sizes.keys()
                list(pool.map(copier.copy_header, sorted(shards)))
        except (OSError, OverflowError) as error:
            text = f"its headers cannot be kept in {directory.parent}: {error}"
            raise HubError(Code.MODEL_NOT_CHECKED, text) from error
        return model

    def read(
        self, name: str, commit: str, limit: int, until: float, start: int | None = None
    ) -> Answer:
        """Read a file of the model, or a part of it, from the cache or from the hub."""
        cached = self._cached(name, commit)
        if cached is None:
            url = hf_hub_url(self.path, name, revision=commit)
            return _read_listed(name, url, limit, until, start)
        with open(cached, "rb") as file:
            file.seek(start or 0)
            return Answer(file.read(limit), os.path.getsize(cached))

    def _cached(self, name: str, commit: str) -> str | None:
        found, _ = attempt(
            try_to_load_from_cache, self.path, name, self.cache_dir, commit
        )
        return found if isinstance(found, str) else None


@dataclass(frozen=True)
class _Copier:
    """Copies files of one commit into a directory."""

    repository: Repository
    commit: str
    sizes: Mapping[str, int | None]
    directory: Path
    until: float

    def copy(self, name: str) -> None:
        vocabulary = _is_like(name, _VOCABULARIES)
        limit = _LARGEST_VOCABULARY if vocabulary else _LARGEST_SMALL
        size = self.sizes[name]
        if size is not None and size > limit:
            text = f"{name} has {size / 1e6:,.0f} MB, too many for such a file"
            raise HubError(Code.MODEL_NOT_CHECKED, text)
        if size is None and not vocabulary:
            size = LARGEST_UNKNOWN
        answer = self.repository.read(name, self.commit, size or limit, self.until)
        (self.directory / name).write_bytes(answer.content)

    def copy_header(self, name: str) -> None:
        content, size = self._part(name, 0, self._first(name))
        whole = self.sizes[name] if size is None else size
        if whole is None:
            text = f"the hub does not say how large {name} is"
            raise HubError(Code.MODEL_NOT_CHECKED, text)
        end = 8 + int.from_bytes(content[:8], "little")
        # What cannot be a header at all is left to safetensors, which says so.
        if end <= whole and end > 8 + _LARGEST_HEADER:
            text = f"the header of {name} has {end / 1e6:,.0f} MB"
            raise HubError(Code.MODEL_NOT_CHECKED, text)
        if len(content) < end <= whole:
            content += self._part(name, len(content), end - len(content)).content
            if len(content) < end:
                text = f"the hub does not send all of the header of {name}"
                raise HubError(Code.MODEL_NOT_CHECKED, text)
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(content[: min(end, whole)])
            file.truncate(whole)

    def _part(self, name: str, start: int, length: int) -> Answer:
        return self.repository.read(name, self.commit, length, self.until, start)

    def _first(self, name: str) -> int:
        """Return how many bytes to ask for first: few, where the file is small."""
        size = self.sizes[name] or 0
        return min(max(size // 200, 1024), _FIRST_BYTES)


def _read_listed(
    name: str, url: str, limit: int, until: float, start: int | None
) -> Answer:
    try:
        return read(url, limit, until, start)
    except HubError as error:
        if error.code is Code.MODEL_NOT_FOUND:
            text = f"the hub lists {one_line(name)}, but does not send it: {LOG_IN}"
            raise HubError(Code.NO_ACCESS, text) from error
        raise


def _is_like(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _indexed(directory: Path) -> set[str]:
    """Return the files that a model's index names, or that of a breadcrumb file."""
    found = set()
    for stem in ("model", STEM):
        file = directory / f"{stem}.safetensors.index.json"
        index, _ = attempt(file.read_bytes)
        content = attempt(json.loads, index or b"{}")[0]
        weights = content.get("weight_map") if isinstance(content, dict) else None
        names = weights.values() if isinstance(weights, dict) else ()
        found |= {name for name in names if isinstance(name, str)}
    return found
