"""Writing a folder beside its place, and putting it there when it is complete."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mergekit_breadcrumbs.files.reader import is_breadcrumb_file


class OutDirError(ValueError):
    """A folder that a breadcrumb file cannot be written to."""


def require_free(out_dir: Path, *, force: bool) -> None:
    """Refuse a folder in which there is something, unless it may be replaced.

    Args:
        out_dir: there or not.
        force: replace an earlier breadcrumb file.

    Raises:
        OutDirError: if it cannot be written to.
    """
    if not os.path.lexists(out_dir):
        if not out_dir.absolute().parent.is_dir():
            raise OutDirError(f"there is no directory {out_dir.absolute().parent}")
    elif not out_dir.is_dir():
        raise OutDirError(f"{out_dir} is there, and is no directory")
    elif any(out_dir.iterdir()):
        if not is_breadcrumb_file(out_dir):
            raise OutDirError(f"{out_dir} is not empty; choose another directory")
        if not force:
            raise OutDirError(
                f"{out_dir} holds a breadcrumb file already; --force replaces it"
            )


@contextmanager
def written_aside(out_dir: Path, *, force: bool) -> Iterator[Path]:
    """Yield a new folder that becomes `out_dir` when the block ends without an error.

    Otherwise it is removed, and what was there stays.

    Raises:
        OutDirError: if somebody else has written to the place meanwhile.
    """
    target = Path(os.path.realpath(out_dir))
    aside = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
    aside.mkdir()
    try:
        yield aside
        for file in aside.iterdir():  # safetensors lets nobody but the owner read
            file.chmod(0o666 & ~_umask())
        _put(aside, target, force=force)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put(aside: Path, target: Path, *, force: bool) -> None:
    require_free(target, force=force)
    old = aside.with_suffix(".old")
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(aside, target)
    except OSError as error:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise OutDirError(
            f"{target} was written to by somebody else meanwhile"
        ) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(old)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
