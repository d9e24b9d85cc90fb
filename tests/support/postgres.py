"""A PostgreSQL server of its own, on loopback, gone when the block ends."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEBIAN = Path("/usr/lib/postgresql")


def server_binaries() -> Path | None:
    """Return the folder of the newest server's programs; None if there is no server."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    versions = [path.parent.parent for path in DEBIAN.glob("*/bin/initdb")]
    newest = max(versions, key=lambda path: float(path.name), default=None)
    return newest / "bin" if newest is not None else None


@contextmanager
def postgres_server(binaries: Path) -> Iterator[str]:
    """Run a server; yield the URL of its database."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # The server refuses to run for root.
        as_user: dict[str, Any] = {}
        if os.getuid() == 0:
            as_user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(folder, "nobody", "nogroup")
        data, port = str(folder / "data"), _free_port()

        def run(program: str, *arguments: str) -> None:
            # The server keeps what it inherits, so that a pipe would never end.
            with open(folder.with_suffix(".log"), "w+") as log:
                command = [str(binaries / program), "-D", data, *arguments]
                try:
                    subprocess.run(
                        command,
                        check=True,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        timeout=120,
                        cwd=folder,
                        **as_user,
                    )
                except subprocess.CalledProcessError as error:
                    log.seek(0)
                    raise AssertionError(log.read()) from error

        try:
            run("initdb", "-A", "trust", "-U", "tune", "--no-sync", "--locale=C")
            settings = f"-h 127.0.0.1 -p {port} -F -c unix_socket_directories=''"
            run("pg_ctl", "-w", "-o", settings, "start")
            try:
                # The driver's name, as SQLAlchemy changes which one is the default.
                yield f"postgresql+psycopg2://tune@127.0.0.1:{port}/postgres"
            finally:
                run("pg_ctl", "-w", "-m", "immediate", "stop")
        finally:
            folder.with_suffix(".log").unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
