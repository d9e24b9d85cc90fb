"""Temporary folders that are gone when their process is, or when the next one starts.

A process that is killed removes nothing. The name of its folder tells whose it was.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

import psutil

_NAME = "mergekit-breadcrumbs-tune"
_OWN: set[str] = set()  # names of the folders that are in use in this process


class Scratch:
    """A temporary folder for the models of one process; a context manager.

    On entering, the folders of processes of this machine that are gone are removed.

    Args:
        parent: where to make it; the system's folder for such things by default.

    Example:
        >>> with Scratch() as scratch:
        ...     new = scratch.new("candidate")
        ...     new.is_dir()
        True
        >>> new.exists()
        False
    """

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = Path(parent or tempfile.gettempdir())
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Scratch:
        self._parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._parent)
        self._folder = tempfile.TemporaryDirectory(
            prefix=f"{_of_this_machine()}{os.getpid()}-",
            dir=self._parent,
            ignore_cleanup_errors=True,
        )
        _OWN.add(Path(self._folder.name).name)
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            _OWN.discard(Path(self._folder.name).name)
            self._folder = None

    def new(self, kind: str) -> Path:
        """Make a new folder in it.

        Args:
            kind: what for; its name begins with this.

        Raises:
            RuntimeError: if this is used before it is entered, or after it is left.
        """
        if self._folder is None:
            raise RuntimeError("temporary folders are made inside `with` alone")
        return Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=self._folder.name))


def remove(folder: Path) -> None:
    """Remove a folder, and leave what cannot be removed to the next start."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(parent: Path) -> list[Path]:
    """Remove the folders of processes of this machine that are gone.

    Returns those that were found.
    """
    name = re.compile(re.escape(_of_this_machine()) + r"(\d+)-\w+")
    found = [
        path
        for path in parent.iterdir()
        if (own := name.fullmatch(path.name)) and not _in_use(path, int(own[1]))
    ]
    for path in found:
        remove(path)
    return found


def _of_this_machine() -> str:
    # Machines may share the folder, and each knows its own processes alone.
    return f"{_NAME}-{re.sub(r'[^A-Za-z0-9]+', '-', platform.node())}-"


def _in_use(folder: Path, process: int) -> bool:
    # In a container every run may have the same number.
    if process == os.getpid():
        return folder.name in _OWN
    runs: bool = psutil.pid_exists(process)
    return runs
