"""Models that mergekit has merged with their LoRA adapter and keeps in a cache.

A folder that is there counts as merged, whatever an earlier run has left in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mergekit.common import ModelReference, dtype_from_name
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.host.adapter_cache import merged_folder
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.weights import read_weights
from mergekit_breadcrumbs.wording import one_line

_WEIGHTS = (".safetensors", ".bin")


def check_cache(
    model: ModelReference,
    directories: Iterable[str | None],
    place: Place,
    options: MergeOptions,
    problems: Problems,
) -> str | None:
    """Report what mergekit cannot keep a merged adapter in, or should not use again.

    `directories` are those of the model and of its adapter, as far as they are here.
    Returns the folder from which mergekit will read, None if it has to merge first.
    """
    here = [directory for directory in directories if directory is not None]
    cache = options.lora_merge_cache
    if not cache:
        text = (
            "a LoRA adapter is merged into its model first, which takes a directory:"
            " add --lora-merge-cache DIRECTORY"
        )
        problems.add(Code.NO_ADAPTER_CACHE, place, text)
        return None
    for directory in here:
        if os.path.realpath(cache) == os.path.realpath(directory):
            text = f"--lora-merge-cache {one_line(cache)} is the directory of a model"
            problems.add(Code.ADAPTER_CACHE_IN_MODEL, place, text)
    folder = merged_folder(model, cache)
    if os.path.exists(folder):
        return _check_merged(folder, here, place, problems)
    fault = _why_unwritable(Path(cache)) or _why_no_dtype(options.lora_merge_dtype)
    if fault:
        problems.add(Code.UNUSABLE_ADAPTER_OPTION, place, fault)
    return None


def _check_merged(
    folder: Path, directories: Iterable[str], place: Place, problems: Problems
) -> str | None:
    fault = read_weights(str(folder)).fault
    if not fault and not (folder / "config.json").is_file():
        fault = "there is no config.json"
    if fault:
        text = (
            f"mergekit will not merge the adapter but read {folder}, which is not"
            f" complete ({fault}), as a run that stopped leaves it: delete it"
        )
        problems.add(Code.BROKEN_ADAPTER_CACHE, place, text)
        return None
    merged = min(_times(folder), default=0)
    if any(time > merged for directory in directories for time in _times(directory)):
        text = (
            f"mergekit will not merge the adapter but read {folder}, which is older"
            " than the model or the adapter: delete it if they have changed"
        )
        problems.add(Code.OLD_ADAPTER_CACHE, place, text)
    return str(folder)


def _times(directory: str | Path) -> list[float]:
    """Return when each file of weights was changed."""
    names, _ = attempt(os.listdir, directory)
    weights = [name for name in names or () if name.endswith(_WEIGHTS)]
    times = (attempt(os.path.getmtime, Path(directory, name))[0] for name in weights)
    return [time for time in times if time is not None]


def _why_unwritable(cache: Path) -> str:
    nearest = cache.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        return f"--lora-merge-cache: {nearest} is not a directory"
    if not os.access(nearest, os.W_OK):
        return f"--lora-merge-cache: {nearest} cannot be written to"
    return ""


def _why_no_dtype(name: str | None) -> str:
    dtype, error = attempt(dtype_from_name, name)
    if error is None and (dtype is None or dtype.is_floating_point):
        return ""
    names = "bfloat16, float16, float32, float64"
    return f"--lora-merge-dtype must be one of {names}; got {one_line(name)}"
