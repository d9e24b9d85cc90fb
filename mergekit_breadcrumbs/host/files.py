"""Opening only what is a file: a named pipe or a device could keep us waiting for ever.

A config alone may come through a pipe, as it does from `<(...)` in a shell.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import stat
import time
from pathlib import Path

MOST_BYTES = 1_000_000
"""The largest config; real ones have a few thousand bytes."""

_MOST_BYTES_OF_JSON = 20_000_000
_MOST_PARTS = 10_000
# Keys of config.json by which parts of a model are made, one by one.
_COUNTS = re.compile(r"(^|_)(n|num)_\w*(layer|expert|block)s?$|_layers$|^depth$")

_POINTER = b"version https://git-lfs"
_PATIENCE = 5
"""Seconds until somebody has to open a named pipe for writing."""

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a directory"),
)
# What mergekit, transformers and PEFT open in a model's directory, besides the shards.
_STEMS = (
    *("config", "generation_config", "adapter_config", "tokenizer_config"),
    *("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges"),
    *("chat_template", "model", "pytorch_model", "adapter_model", "spiece"),
)
_ENDINGS = (".json", ".safetensors", ".bin", ".model", ".jinja", ".txt")


def fault_of_file(path: str | Path) -> str:
    """Return why a path is no file that can be read; empty if it is one.

    Example:
        >>> fault_of_file("/")
        'is a directory, not a file'
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) and os.access(path, os.R_OK):
            with open(path, "rb") as stream:
                pointer = stream.read(len(_POINTER)) == _POINTER
            text = "is a Git LFS pointer, not the file: run git lfs pull"
            return text if pointer else ""
    except FileNotFoundError:
        gone = os.path.islink(path)
        return "is a link to a file that is not there" if gone else "is not there"
    except (OSError, ValueError) as error:  # a name with NUL is a ValueError
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISREG(mode):
        return "cannot be read: permission denied"
    kind = next((name for holds, name in _KINDS if holds(mode)), "something else")
    return f"is {kind}, not a file"


def fault_in_directory(directory: str) -> str:
    """Return which of a model's files is there and cannot be read; empty if none is."""
    try:
        names = sorted(os.listdir(directory))
    except (OSError, ValueError):  # told where the weights are looked for
        return ""
    for name in names:
        stem, ending = os.path.splitext(name)
        if ending in _ENDINGS and stem.removesuffix(".safetensors.index") in _STEMS:
            path = os.path.join(directory, name)
            # For all that read it, a link to nothing is no file at all.
            if os.path.exists(path) and (fault := fault_of_file(path)):
                return f"{name} {fault}"
    return ""


def fault_in_config(directory: str) -> str:
    """Return which number in a config.json would keep all that read it busy for hours.

    What else is wrong with it is for transformers to say.
    """
    path = Path(directory, "config.json")
    try:
        if path.stat().st_size > _MOST_BYTES_OF_JSON:
            return f"config.json has {path.stat().st_size:,} bytes"
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
            for key, number in value.items():
                large = isinstance(number, int) and number > _MOST_PARTS
                if large and _COUNTS.search(key):
                    return f"config.json says {number:,} for {key}"
        elif isinstance(value, list):
            waiting += value
    return ""


def read_config_file(path: Path) -> bytes:
    """Return what a config holds, and at most a byte more than `MOST_BYTES`.

    Raises:
        OSError: if it cannot be read, or is a named pipe that nobody writes to.
    """
    # Without this, opening a named pipe would wait for somebody who writes to it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb", buffering=0) as stream:
        content = bytearray()
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            content += _first_byte(descriptor)
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(descriptor, True)
        while part := stream.read(MOST_BYTES + 1 - len(content)):
            content += part
    return bytes(content)


def _first_byte(descriptor: int) -> bytes:
    """Return a byte, or none where it is known that somebody writes or has written."""
    poll = select.poll()
    poll.register(descriptor)
    end = time.monotonic() + _PATIENCE
    while not poll.poll(50):
        try:
            if byte := os.read(descriptor, 1):
                return byte
        except BlockingIOError:  # nothing yet, but the other end is open
            break
        if time.monotonic() > end:
            raise OSError(errno.EAGAIN, "nobody writes to this named pipe")
    return b""
