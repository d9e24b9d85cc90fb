"""The weights in a merged folder, as transformers loads them, and what is wrong there.

transformers takes a single file before an index, mergekit the index before the file;
both take safetensors before pickled weights.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.host.attempt import attempt, first_line
from mergekit_breadcrumbs.verify.faults import Fault
from mergekit_breadcrumbs.wording import listed, one_line, visible

_INDEX = ".index.json"
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_OURS = re.compile(
    r"(pytorch_)?model(-\d+(-of-\d+)?)?\.(safetensors|bin)(\.index\.json)?"
)
_UNFINISHED = re.compile(r"(pytorch_)?model-\d+\.(safetensors|bin)")
"""What mergekit calls a file until the merge is finished."""


class Weights:
    """The tensors of a folder: which there are, in which file, and their values.

    `source` is the file that transformers opens first, `files` are those with tensors.
    One file is open at a time.
    """

    def __init__(
        self, folder: Path, source: str, names: Mapping[str, list[str]]
    ) -> None:
        self.folder = folder
        self.source = source
        self.files = list(names)
        # Where two files have one tensor, transformers keeps the later one's.
        self.file_of = {name: file for file in names for name in names[file]}
        self._open: tuple[str, Any] = ("", None)

    def read(self, name: str) -> tuple[torch.Tensor | None, str]:
        """Return one tensor, or None and why it cannot be read."""
        file = self.file_of[name]
        if self._open[0] != file:
            self._open = ("", None)  # the memory of the last one, before the next
            tensors, fault = _open_file(self.folder / file)
            if fault:
                return None, fault
            self._open = (file, tensors)
        tensors = self._open[1]
        get = tensors.get if isinstance(tensors, dict) else tensors.get_tensor
        tensor, error = attempt(get, name)
        return tensor, "" if error is None else visible(first_line(error))


def find_weights(folder: Path) -> tuple[Weights | None, list[Fault]]:
    """Find the weights of a folder, and all that can be seen without comparing them.

    Returns None in the place of the weights where transformers could not load them.
    """
    present = {n for n in os.listdir(folder) if _OURS.fullmatch(n)}
    orders = [name + ending for name in _SINGLE for ending in ("", _INDEX)]
    source = next((name for name in orders if name in present), None)
    if source is None:
        return None, [_no_weights(folder, present)]
    faults = []
    if source + _INDEX in present:
        faults.append(
            Fault(
                Code.TWO_READINGS,
                f"there are {source} and {source}{_INDEX}: transformers loads the"
                f" first, mergekit the second; {source} is compared",
            )
        )
    if (folder / "adapter_config.json").is_file():
        faults.append(
            Fault(
                Code.TWO_READINGS,
                "there is an adapter_config.json: transformers takes the folder for an"
                " adapter, and loads the model that this names; mergekit loads the"
                " folder's own weights",
            )
        )
    weight_map: dict[str, str] = {}
    files = [source]
    if source.endswith(_INDEX):
        weight_map, fault = _read_weights(folder / source)
        files = sorted(set(weight_map.values()))
        if fault:
            return None, [*faults, Fault(Code.WEIGHTS_UNREADABLE, fault)]
    faults += _left_over(present - {source, source + _INDEX, *files})
    names, damaged = _read_names(folder, source, files)
    if damaged:
        return None, [*damaged, *faults]
    if source.endswith(_INDEX):
        faults += _compare_index(source, weight_map, names)
    return Weights(folder, source, names), faults


def _no_weights(folder: Path, present: set[str]) -> Fault:
    unfinished = sorted(name for name in present if _UNFINISHED.fullmatch(name))
    # mergekit writes the config last.
    ended = (folder / "config.json").is_file() and not unfinished
    if unfinished:
        text = f"there is {listed(unfinished)}, and no finished weights"
    elif present:
        text = f"there is {listed(sorted(present))}, and no index of these files"
    else:
        text = "there are no weights"
    return Fault(Code.WEIGHTS_UNREADABLE if ended else Code.NOT_FINISHED, text)


def _left_over(names: set[str]) -> list[Fault]:
    """Say which files of weights nothing reads."""
    unfinished = sorted(name for name in names if _UNFINISHED.fullmatch(name))
    others = sorted(names - set(unfinished))
    reasons = [
        (unfinished, "left by a merge that did not finish"),
        (others, "not of this merge, and read by nothing"),
    ]
    return [
        Fault(Code.STALE_WEIGHTS, f"{listed(files, 3)}: {reason}")
        for files, reason in reasons
        if files
    ]


def _read_weights(path: Path) -> tuple[dict[str, str], str]:
    text, error = attempt(path.read_text, "utf-8")
    data, error = attempt(json.loads, text) if text is not None else (None, error)
    if error is not None:
        return {}, f"{path.name} cannot be read: {visible(first_line(error))}"
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        return {}, f"{path.name} has no weight_map"
    for file in weight_map.values():
        # A file elsewhere, or none at all, was not written by a merge.
        if not isinstance(file, str) or not _OURS.fullmatch(file):
            return (
                {},
                f"{path.name} names {one_line(file)}, which is no file of a merge",
            )
    return weight_map, ""


def _read_names(
    folder: Path, source: str, files: list[str]
) -> tuple[dict[str, list[str]], list[Fault]]:
    """Return the tensors of each file, by the file itself."""
    names: dict[str, list[str]] = {}
    faults = []
    for file in files:
        if not (folder / file).is_file():
            text = f"there is no file {file}"
            text += f", which {source} names" if file != source else ""
            faults.append(Fault(Code.WEIGHTS_UNREADABLE, text))
            continue
        opened, fault = _open_file(folder / file)
        if fault:
            text = f"{file} cannot be read: {fault}"
            faults.append(Fault(Code.WEIGHTS_UNREADABLE, text))
        else:
            names[file] = [str(name) for name in opened.keys()]  # noqa: SIM118
    return names, faults


def _open_file(path: Path) -> tuple[Any, str]:
    """Open one file of weights without reading the numbers, or say why not."""
    if not path.stat().st_size:
        return None, "it is empty"
    if path.suffix == ".safetensors":
        opened, error = attempt(safe_open, path, framework="pt")
        return opened, "" if error is None else visible(first_line(error))
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    state, error = attempt(torch.load, path, mmap=True, **options)
    if error is not None:  # files of old releases of torch cannot be mapped
        state, error = attempt(torch.load, path, **options)
    if error is not None:
        return None, visible(first_line(error))
    if not isinstance(state, dict):
        return None, f"it holds no tensors by name, but a {type(state).__name__}"
    return {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}, ""


def _compare_index(
    source: str, weight_map: Mapping[str, str], names: Mapping[str, list[str]]
) -> list[Fault]:
    """Say where an index and its files disagree."""
    held = {file: set(tensors) for file, tensors in names.items()}
    lacking = [n for n, file in weight_map.items() if n not in held[file]]
    unlisted = [
        f"{visible(name)} ({file})"
        for file, tensors in names.items()
        for name in tensors
        if weight_map.get(name) != file
    ]
    texts = []
    if lacking:
        shown = [f"{visible(name)} in {weight_map[name]}" for name in lacking]
        texts.append(f"{source} names what is not there: {listed(shown, 3)}")
    if unlisted:
        texts.append(f"{source} does not name what is there: {listed(unlisted, 3)}")
    return [Fault(Code.STALE_INDEX, text) for text in texts]
