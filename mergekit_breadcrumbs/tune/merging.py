"""Merging candidates, one after another, into memory or into folders that go away."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.host.attempt import first_line
from mergekit_breadcrumbs.host.in_memory import Inputs
from mergekit_breadcrumbs.tune.loading import make_model, read_model, read_tokenizer
from mergekit_breadcrumbs.tune.scratch import Scratch, remove
from mergekit_breadcrumbs.verify.merge_config import CONFIG_NAME
from mergekit_breadcrumbs.verify.remake import OrderedConfig, sorted_models

T = TypeVar("T")


class MergeFailed(RuntimeError):  # noqa: N818  # what happened, not what is wrong
    """A merge that failed; its text is one line."""


class Merger:
    """Merges candidates from inputs that are opened once; a context manager.

    LoRA adapters are merged into their models once, and kept in `lora_merge_cache`, or
    among the temporary folders where the options name none.

    Args:
        options: mergekit's own, for every merge.
        scratch: where temporary folders are made; the system's place by default.
    """

    def __init__(self, options: MergeOptions, scratch: Path | None = None) -> None:
        self._options = options
        self._scratch = Scratch(scratch)
        self._inputs = Inputs(options)

    def __enter__(self) -> Merger:
        self._scratch.__enter__()
        options = self._options
        if options.lora_merge_cache is None:
            cache = {"lora_merge_cache": str(self._scratch.new("adapters"))}
            options = options.model_copy(update=cache)
        self._inputs = Inputs(options)
        return self

    def __exit__(self, *_: object) -> None:
        self._inputs.close()
        self._scratch.__exit__()

    def candidate(self, config: dict[str, Any] | MergeConfiguration) -> MergedCandidate:
        """Return what a config makes. Nothing is merged yet.

        Raises:
            MergeFailed: if it is no config of mergekit's.
        """
        if not isinstance(config, MergeConfiguration):
            config = _or_failed(
                MergeConfiguration.model_validate, copy.deepcopy(config)
            )
        return MergedCandidate(self._inputs, self._scratch, config)

    def model(self, name: str, like: MergeConfiguration) -> MergedCandidate:
        """Return a base or an input by itself, with its own dtype and tokenizer.

        A model with an adapter or a breadcrumb file is put together by mergekit;
        any other is taken as it is.

        Args:
            name: of the model, as the config has it.
            like: the config that names it.

        Raises:
            MergeFailed: if it is no name of a model.
        """
        known = {str(model): model for model in like.referenced_models()}
        model = known.get(name) or _or_failed(ModelReference.parse, name)
        if model.lora is None and model.override_architecture is None:
            return MergedCandidate(self._inputs, self._scratch, model)
        alone = {"merge_method": "passthrough", "models": [{"model": model}]}
        return self.candidate(alone)


class MergedCandidate:
    """A model to be scored: merged at the first need, and gone after `close`.

    `seconds` is what merging and loading have taken so far.

    Args:
        inputs: open.
        scratch: open.
        source: what to merge, or a model that is taken as it is.
    """

    def __init__(
        self,
        inputs: Inputs,
        scratch: Scratch,
        source: MergeConfiguration | ModelReference,
    ) -> None:
        self.seconds = 0.0
        self._inputs, self._scratch, self._source = inputs, scratch, source
        self._trust: bool = inputs.options.trust_remote_code
        self._folder: Path | None = None
        self._loaded: tuple[Any, Any] | None = None
        self._temporary: list[Path] = []

    def folder(self) -> Path:
        """Return it as a folder, as `mergekit-yaml` writes it, but for the model card.

        Raises:
            MergeFailed: in mergekit's own words.
        """
        if self._folder is None:
            with self._timed():
                self._folder = self._make_folder()
        return self._folder

    def load(self) -> tuple[Any, Any]:
        """Return it as a model of transformers, and its tokenizer or None.

        The weights are on no disk, unless they are there already; or transformers has
        no such model, and its code is that of a repository.

        Raises:
            MergeFailed: in mergekit's or transformers' own words.
        """
        if self._loaded is None:
            self._loaded = self._from_memory() or self._from_folder()
        return self._loaded

    def close(self) -> None:
        """Let go of the model, and remove what was written of it."""
        self._loaded = self._folder = None
        while self._temporary:
            remove(self._temporary.pop())

    def __fspath__(self) -> str:
        return str(self.folder())

    def _make_folder(self) -> Path:
        if isinstance(self._source, ModelReference):
            cache = self._inputs.options.transformers_cache
            return Path(_or_failed(self._source.local_path, cache_dir=cache))
        folder = self._new("candidate")
        _or_failed(self._inputs.merge, _ordered(self._source), folder)
        (folder / CONFIG_NAME).write_text(f"{self._source.to_yaml()}\n", "utf-8")
        return folder

    def _from_memory(self) -> tuple[Any, Any] | None:
        if self._folder is not None or isinstance(self._source, ModelReference):
            return None
        with self._timed():
            folder = self._new("without-weights")
            merge = self._inputs.merge_in_memory
            tensors = _or_failed(merge, _ordered(self._source), folder)
            model = _or_failed(make_model, tensors, folder, self._trust)
            if model is None:
                return None
            return model, _or_failed(read_tokenizer, folder, self._trust)

    def _from_folder(self) -> tuple[Any, Any]:
        folder = self.folder()
        with self._timed():
            model = _or_failed(read_model, folder, self._trust)
            return model, _or_failed(read_tokenizer, folder, self._trust)

    def _new(self, kind: str) -> Path:
        folder = self._scratch.new(kind)
        self._temporary.append(folder)
        return folder

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start, there = time.perf_counter(), len(self._temporary)
        try:
            yield
        except BaseException:
            while len(self._temporary) > there:
                remove(self._temporary.pop())
            raise
        finally:
            self.seconds += time.perf_counter() - start


def _ordered(config: MergeConfiguration) -> MergeConfiguration:
    """Return a copy for mergekit to rewrite, whose models are in one order every time.

    It numbers the tokens of a joint vocabulary in that order.
    """
    return OrderedConfig.of(config, sorted_models(config))


def _or_failed(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call what merges or loads.

    Raises:
        MergeFailed: if that fails.
    """
    try:
        return call(*args, **kwargs)
    # mergekit, transformers and what they call raise anything.
    except Exception as error:
        raise MergeFailed(first_line(error)) from error
