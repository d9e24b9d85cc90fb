"""Writing a file so that the old one is there until the new one is whole."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file, or leave what was there as it was.

    A link is followed. A pipe or a device is written to as it is.

    Raises:
        OSError: naming this file, if it cannot be written; nothing of it is left.

    Example:
        >>> write_whole(os.devnull, b"{}")
    """
    target = os.path.realpath(path)
    try:
        if os.path.exists(target) and not os.path.isfile(target):
            _write(target, content, os.O_WRONLY)
        else:
            _replace(target, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(target: str, content: bytes) -> None:
    new = os.path.join(os.path.dirname(target), f".{uuid.uuid4().hex}.part")
    try:
        try:
            _write(new, content, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except PermissionError:
            # The directory takes no new file; the old one itself may be writable.
            if not os.path.exists(target):
                raise
            _write(target, content, os.O_WRONLY | os.O_TRUNC)
            return
        if os.path.exists(target):
            os.chmod(new, os.stat(target).st_mode & 0o777)
        os.replace(new, target)
    finally:
        if os.path.exists(new):
            os.unlink(new)


def _write(path: str, content: bytes, flags: int) -> None:
    binary = getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags | binary, 0o666), "wb") as stream:
        stream.write(content)
