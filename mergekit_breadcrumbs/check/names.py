"""Which directory each model name stands for: here, in the hub's cache, or on the hub.

Names that are no directory are replaced in the config by the directory where the
model's files are, so that nothing that reads them afterwards asks the hub.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from mergekit.common import ModelPath
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.hub import HubModel, Repository
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.check.schema import read_reference
from mergekit_breadcrumbs.check.sections import sections
from mergekit_breadcrumbs.check.wire import HubError
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.weights import read_weights
from mergekit_breadcrumbs.wording import one_line

HubModels: TypeAlias = dict[str, HubModel]
"""Models that are not local, by their directories."""

_AT_ONCE = 16
_NAMING = ("base_model", "model", "source", "tokenizer_source")


def find_names(
    data: dict[Any, Any], options: MergeOptions, problems: Problems, stack: ExitStack
) -> tuple[dict[Any, Any], HubModels]:
    """Return a config with directories for the names of models that are not local.

    What cannot be found is reported where it is first named, and keeps its name. The
    directories may be gone when `stack` is closed; problems tell of them by the names.
    """
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    found: dict[ModelPath, HubModel] = {}
    asked: dict[ModelPath, Place] = {}
    for path, place in _named(data).items():
        cached, error = attempt(
            huggingface_hub.snapshot_download,
            path.path,
            revision=path.revision,
            cache_dir=options.transformers_cache,
            local_files_only=True,
        )
        if cached is not None:
            found[path] = HubModel(str(cached))
        if offline or isinstance(error, HFValidationError):
            _report_offline(path, place, cached, error, problems)
        elif cached is None or not _is_complete(cached):
            asked[path] = place
    if asked:
        _ask_hub(asked, found, options, problems, stack)
    for path, model in found.items():
        model.name = path
        problems.rename(model.directory, str(path))
    replaced = {path: ModelPath(path=model.directory) for path, model in found.items()}
    return _localised(data, replaced, {}), {m.directory: m for m in found.values()}


def _named(data: dict[Any, Any]) -> dict[ModelPath, Place]:
    """Return the models and adapters that are not local, where each is first named."""
    places: dict[ModelPath, Place] = {}
    for section in sections(data):
        for key in ("base_model", "model"):
            # What cannot be read is told where the file is checked as a whole.
            model, _ = read_reference(section.get(key))
            for path in (model.model, model.lora) if model is not None else ():
                if path is not None and not os.path.exists(path.path):
                    places.setdefault(path, (*section.place, key))
    return places


def _report_offline(
    path: ModelPath,
    place: Place,
    cached: str | None,
    error: Exception | None,
    problems: Problems,
) -> None:
    if isinstance(error, HFValidationError):
        text = f"not found: there is no directory {one_line(path.path)}"
        problems.add(Code.MODEL_NOT_FOUND, place, text + _path_hint(path.path))
    elif cached is None:
        text = f"not found: {_nowhere(path)} (HF_HUB_OFFLINE is set)"
        problems.add(Code.MODEL_NOT_FOUND, place, text)
    else:
        problems.add(
            Code.CACHED_BUT_OFFLINE,
            place,
            "is in the hub's cache, but mergekit still asks the hub for its files, and"
            f" HF_HUB_OFFLINE is set: unset it, or write the directory {cached}",
        )


def _nowhere(path: ModelPath) -> str:
    return f"no directory {one_line(path.path)} here, and none in the hub's cache"


def _path_hint(path: str) -> str:
    if path.startswith("~") or "$" in path:
        return " (neither ~ nor $ is expanded in a config)"
    if not os.path.isabs(path):
        return " (paths are relative to the working directory, not to the config)"
    return ""


def _is_complete(directory: str) -> bool:
    """Whether a snapshot in the cache has all that is checked, so as not to ask."""
    names = os.listdir(directory)
    if "adapter_config.json" in names:
        return any(name.startswith("adapter_model.") for name in names)
    return any("tokeni" in name for name in names) and _can_be_checked(directory)


def _can_be_checked(directory: str) -> bool:
    has_config = os.path.exists(os.path.join(directory, "config.json"))
    return has_config and read_weights(directory).index is not None


def _ask_hub(
    asked: Mapping[ModelPath, Place],
    found: dict[ModelPath, HubModel],
    options: MergeOptions,
    problems: Problems,
    stack: ExitStack,
) -> None:
    """Copy models from the hub, all at once, and add them to those that were found."""
    room, error = attempt(
        tempfile.TemporaryDirectory,
        prefix="breadcrumbs-",
        ignore_cleanup_errors=True,
    )
    folder = Path(stack.enter_context(room)) if room is not None else None

    def copy(index: int, path: ModelPath) -> HubModel | HubError:
        if folder is None:
            return HubError(Code.MODEL_NOT_CHECKED, f"there is no room here: {error}")
        repository = Repository(
            path.path,
            path.revision,
            options.transformers_cache,
            options.trust_remote_code,
        )
        try:
            # No name of a folder begins with another: names are put in their places.
            return repository.copy(folder / f"{index:06}")
        except HubError as refusal:
            return refusal

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for path, copied in zip(
            asked, pool.map(copy, range(len(asked)), asked), strict=True
        ):
            if isinstance(copied, HubModel):
                found[path] = copied
                continue
            before = found.pop(path, None)
            silent = copied.code is Code.MODEL_NOT_CHECKED
            if silent and before is not None and _can_be_checked(before.directory):
                found[path] = before
                continue
            problems.add(copied.code, asked[path], _refusal(path, copied))


def _refusal(path: ModelPath, error: HubError) -> str:
    if error.code is Code.MODEL_NOT_CHECKED:
        return f"not checked: there is {_nowhere(path)}, and {error}"
    if error.code is Code.MODEL_NOT_FOUND:
        return f"not found: there is {_nowhere(path)}, and {error}"
    if error.code is Code.NO_REVISION:
        return f"the hub has no revision {one_line(path.revision)} of this model"
    return f"cannot be downloaded: {error}"


def _localised(
    value: Any, replaced: Mapping[ModelPath, ModelPath], done: dict[int, Any]
) -> Any:
    """Return a copy of what YAML has, with directories for the names of models.

    An anchor makes one value stand in many places, itself included: `done` has the
    copies that there are.
    """
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, list):
        items: list[Any] = []
        done[id(value)] = items
        items += [_localised(item, replaced, done) for item in value]
        return items
    if isinstance(value, dict):
        entries: dict[Any, Any] = {}
        done[id(value)] = entries
        for key, item in value.items():
            inner = _localised(item, replaced, done)
            entries[key] = _directory_of(inner, replaced) if key in _NAMING else inner
        return entries
    return value


def _directory_of(value: Any, replaced: Mapping[ModelPath, ModelPath]) -> Any:
    reference, _ = read_reference(value)
    if reference is None or not {reference.model, reference.lora} & replaced.keys():
        return value
    model, lora = (replaced.get(p, p) for p in (reference.model, reference.lora))
    # As a mapping: a path may have characters in it that mean something in a name.
    architecture = reference.override_architecture
    return {"model": model, "lora": lora, "override_architecture": architecture}
