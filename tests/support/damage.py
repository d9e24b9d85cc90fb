"""Ways to damage a merged folder; each returns a function of the folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.checkpoints import load_tensors, save_tensors
from torch import Tensor

Damage = Callable[[Path], object]
INDEX = "model.safetensors.index.json"


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Damage:
    """Change the tensors of the one file there is."""

    def damage(folder: Path) -> None:
        [file] = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
        found = {name: tensor.clone() for name, tensor in load_tensors(file).items()}
        change(found)
        save_tensors(found, file)

    return damage


def settings(name: str = "config.json", **values: Any) -> Damage:
    """Set values in a JSON file; those that are None are taken out."""

    def damage(folder: Path) -> None:
        data = json.loads((folder / name).read_text()) | values
        data = {k: v for k, v in data.items() if v is not None}
        (folder / name).write_text(json.dumps(data))

    return damage


def weight_map(change: Callable[[dict[str, str]], object]) -> Damage:
    """Change which file the index names for a tensor."""

    def damage(folder: Path) -> None:
        data = json.loads((folder / INDEX).read_text())
        change(data["weight_map"])
        (folder / INDEX).write_text(json.dumps(data))

    return damage


def cut(name: str, size: int = -1) -> Damage:
    """Cut a file off after so many bytes; counted from the end if negative."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return damage


def text(name: str, old: str, new: str) -> Damage:
    """Replace a piece of a text file; all of it if the piece is empty."""

    def damage(folder: Path) -> None:
        content = (folder / name).read_text() if old else ""
        (folder / name).write_text(content.replace(old, new) if old else new)

    return damage


def remove(*names: str) -> Damage:
    """Remove files."""
    return lambda folder: [(folder / name).unlink() for name in names]


def rename(old: str, new: str) -> Damage:
    """Rename a file."""
    return lambda folder: (folder / old).rename(folder / new)


def copy(file: str, new: str = "") -> Damage:
    """Copy a file of a folder beside this one into it: "FOLDER/FILE"."""
    return lambda folder: shutil.copy(
        folder.parent / file, folder / (new or Path(file).name)
    )


def both(*damages: Damage) -> Damage:
    """Do several things."""
    return lambda folder: [damage(folder) for damage in damages]
