"""What a folder holds, for tests that nothing in it changes."""

import hashlib
from pathlib import Path


def digests(folder: Path) -> dict[str, bytes]:
    """Return a digest of each file under a folder, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file()
    }
