"""What is in the folder that a merge is to be written to."""

from __future__ import annotations

import os
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.wording import listed, one_line

_WEIGHTS = (
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model-*.bin",
    "pytorch_model.bin.index.json",
    "adapter_config.json",
    "adapter_model.*",
)
# As transformers looks for weights, and as mergekit does.
_FOR_TRANSFORMERS = (
    "adapter_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_FOR_MERGEKIT = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


def nearest_folder(path: Path) -> Path:
    """Return a folder itself, or the nearest one around it that is there."""
    path = Path(os.path.realpath(path))
    return next(p for p in (path, *path.parents) if os.path.exists(p))


def check_folder(
    out: Path,
    inputs: Collection[Path],
    written: Collection[str] | None,
    problems: Problems,
) -> list[str]:
    """Report what is wrong with the folder that a merge is to be written to.

    Args:
        out: the folder, which may not exist yet.
        inputs: the directories that the merge reads.
        written: the names of the weights that it will write, None if not known.
        problems: gets what is found.

    Returns:
        The files of a model that are in it already, in order.
    """
    name, nearest = f"--out {one_line(str(out))}", nearest_folder(out)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = "is not a folder" if not nearest.is_dir() else "may not be written to"
        text = f"{name} cannot be written: {one_line(str(nearest))} {what}"
        problems.add(Code.OUT_NOT_WRITABLE, (), text)
        return []
    if os.path.realpath(out) in map(os.path.realpath, inputs):
        text = "is the directory of a model that is read: it would be overwritten"
        problems.add(Code.OUT_IS_INPUT, (), f"{name} {text}")
    names = sorted(attempt(os.listdir, out)[0] or ())
    weights = [n for n in names if any(fnmatchcase(n, p) for p in _WEIGHTS)]
    held = [n for n in names if n == "config.json"] + weights
    stale = [n for n in weights if n not in (written or weights)]
    if held:
        text = f"holds a model already, which is overwritten: {listed(held, 3)}"
        problems.add(Code.OUT_HOLDS_MODEL, (), f"{name} {text}")
    if stale:
        text = f"{name}: the merge leaves old files there: {listed(stale, 3)}"
        text += _readers({*(written or ()), *stale}, stale) + "; delete them"
        problems.add(Code.OLD_WEIGHTS, (), text)
    return held


def _readers(names: Collection[str], stale: Collection[str]) -> str:
    """Return who would read one of the old files, if anyone would."""
    read = {
        "transformers": next((n for n in _FOR_TRANSFORMERS if n in names), ""),
        "mergekit": next((n for n in _FOR_MERGEKIT if n in names), ""),
    }
    readers = [f"{who} would read {n}" for who, n in read.items() if n in stale]
    return "".join(f"; {reader}" for reader in readers)
