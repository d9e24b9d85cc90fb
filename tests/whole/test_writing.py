"""Files that are written whole, or not at all."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from mergekit_breadcrumbs.writing import write_whole


def test_in_the_place_of_an_old_file(tmp_path: Path) -> None:
    """The new file has the old one's permissions; a link still leads to it."""
    file, link = tmp_path / "a.json", tmp_path / "link"
    file.write_bytes(b"old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "link"]


@pytest.mark.parametrize("function", ["replace", "open"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_full_disk(
    function: str, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there is kept, nothing new is left, and the error names the file."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "a.json"
    if old is not None:
        file.write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
            write_whole(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] * (old is not None)
    assert old is None or file.read_bytes() == old


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves nothing behind."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.json", b"new")
    assert list(tmp_path.iterdir()) == []


def test_to_a_pipe(tmp_path: Path) -> None:
    """A pipe stays one, and gets the content."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write_whole, args=(pipe, b"new"))
    writer.start()
    assert pipe.read_bytes() == b"new"
    writer.join()
    assert pipe.is_fifo()


def test_directory_that_takes_no_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the old file is written to, for there is no other way."""
    file, opened = tmp_path / "a.json", os.open
    file.write_bytes(b"longer than new")

    def refuse(path: str, flags: int, *rest: Any) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"
