"""What a merge will read, download, write and take, before it is started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from huggingface_hub import constants
from mergekit.common import ModelPath, ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.forecast import INTERPRETER, forecast, weight_files
from mergekit_breadcrumbs.check.layout import OutputSlice
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.names import HubModels
from mergekit_breadcrumbs.check.out_folder import check_folder, nearest_folder
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.host.adapter_cache import merged_folder
from mergekit_breadcrumbs.wording import bytes_text, one_line


@dataclass(frozen=True)
class ModelBytes:
    """How much is read of one model, and how much of it is downloaded first.

    None where that is not known.
    """

    model: str
    read_bytes: int | None
    download_bytes: int | None


@dataclass(frozen=True)
class Before:
    """What a merge will do to a machine, in bytes; None is what cannot be told.

    `adapted_bytes` is what models merged with their adapters will take on the disk.
    `mapped_bytes` are pages of files in memory, which the system takes back at need.
    `holds` are the files of a model that are in the folder already.
    """

    out: str
    models: list[ModelBytes]
    cache: str
    download_bytes: int
    cache_free_bytes: int
    adapted_bytes: int
    write_bytes: int | None
    out_free_bytes: int
    memory_bytes: int | None
    mapped_bytes: int | None
    available_bytes: int
    holds: list[str]


@dataclass(frozen=True)
class Inputs:
    """The models of a merge: those of its config, and which of them are not local."""

    models: Mapping[ModelReference, ModelFiles]
    hub_models: HubModels

    def sizes(self) -> Iterator[ModelBytes]:
        """Yield the sizes of each model; an adapter only adds to what is downloaded."""
        for model, files in self.models.items():
            parts = [self._download(p) for p in (model.model, model.lora) if p]
            download = None if None in parts else sum(part or 0 for part in parts)
            read = sum(weight_files(files).values()) or None
            yield ModelBytes(self._name(model), read, download)

    def adapted(self, cache: str | None) -> dict[Path, int]:
        """Return where each model with an adapter will be kept, and its bytes."""
        found = {}
        for model, files in self.models.items():
            if model.lora and cache is not None and files.file is None:
                own = ModelReference(
                    model=self._named(model.model), lora=self._named(model.lora)
                )
                size = sum(weight_files(files).values())
                found[merged_folder(own, cache)] = size
        return found

    def directories(self) -> list[Path]:
        """Return the directories that are read."""
        paths = [path for model in self.models for path in (model.model, model.lora)]
        return [Path(p.path) for p in paths if p is not None and os.path.isdir(p.path)]

    def _download(self, path: ModelPath) -> int | None:
        if os.path.isdir(path.path) and path.path not in self.hub_models:
            return 0
        hub = self.hub_models.get(path.path)
        if hub is None:
            return None
        sizes = [size for name, size in hub.sizes.items() if name not in hub.cached]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def _named(self, path: ModelPath) -> ModelPath:
        """Return a path as the config has it."""
        hub = self.hub_models.get(path.path)
        return path if hub is None or hub.name is None else hub.name

    def _name(self, model: ModelReference) -> str:
        lora = "" if model.lora is None else f"+{self._named(model.lora)}"
        return f"{self._named(model.model)}{lora}"


def look_ahead(
    out: Path,
    outputs: list[OutputSlice],
    config: MergeConfiguration | None,
    inputs: Inputs,
    options: MergeOptions,
    problems: Problems,
) -> Before:
    """Return what a merge into `out` will do, and report what it will stop with.

    `config` and `outputs` are those with directories for names of the hub; where there
    are none, less is known.
    """
    cache = Path(options.transformers_cache or constants.HF_HUB_CACHE)
    adapted = inputs.adapted(options.lora_merge_cache)
    waiting = {path: size for path, size in adapted.items() if not path.exists()}
    models = list(inputs.sizes())
    expected = None
    if config is not None:
        expected = forecast(outputs, inputs.models, config, options)
    known = None if expected is None else expected.files
    holds = check_folder(out, [*inputs.directories(), *adapted], known, problems)
    before = Before(
        out=str(out),
        models=models,
        cache=str(cache),
        download_bytes=sum(model.download_bytes or 0 for model in models),
        cache_free_bytes=_free(cache),
        adapted_bytes=sum(waiting.values()),
        write_bytes=expected and expected.written + _beside(config, options),
        out_free_bytes=_free(out),
        memory_bytes=expected
        and max(expected.memory, INTERPRETER + max(waiting.values(), default=0)),
        mapped_bytes=expected and expected.mapped,
        available_bytes=int(psutil.virtual_memory().available),
        holds=holds,
    )
    _check_room(before, options.lora_merge_cache, problems)
    _check_memory(before, problems)
    return before


def _free(folder: Path) -> int:
    return shutil.disk_usage(nearest_folder(folder)).free


def _beside(config: MergeConfiguration | None, options: MergeOptions) -> int:
    """Return the size of the base's small files, which are copied or made again."""
    base = config.base_model if config is not None else None
    if base is None or not options.copy_tokenizer:
        return 0
    folder = Path(base.model.path)
    names = [n for n in os.listdir(folder) if n.endswith((".json", ".model", ".jinja"))]
    return sum((folder / n).stat().st_size for n in names if ".index." not in n)


def _check_room(before: Before, adapters: str | None, problems: Problems) -> None:
    """Report each disk that has not enough room for all that comes to it."""
    needs: dict[int, list[tuple[str, int, str]]] = {}
    for folder, size, what in (
        (before.out, before.write_bytes or 0, "to write"),
        (before.cache, before.download_bytes, "to download"),
        (adapters, before.adapted_bytes, "for models with their adapters"),
    ):
        if folder is not None and size:
            disk = os.stat(nearest_folder(Path(folder))).st_dev
            needs.setdefault(disk, []).append((folder, size, what))
    for coming in needs.values():
        folder, free = coming[0][0], _free(Path(coming[0][0]))
        if sum(size for _, size, _ in coming) > free:
            parts = ", ".join(f"{bytes_text(size)} {what}" for _, size, what in coming)
            text = f"not enough room: {parts}, and {bytes_text(free)} are free on the"
            problems.add(Code.NO_ROOM, (), f"{text} disk of {one_line(folder)}")


def _check_memory(before: Before, problems: Problems) -> None:
    needed, there = before.memory_bytes, before.available_bytes
    if needed is not None and needed > there:
        text = f"the merge takes about {bytes_text(needed)} of memory, and"
        text = f"{text} {bytes_text(there)} are available"
        problems.add(Code.LITTLE_MEMORY, (), text)
