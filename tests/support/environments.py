"""Throw-away virtual environments, with the plugin and a stand-in for mergekit.

Importing the real mergekit takes seconds, most of them torch's; where the point is who
is imported when, the stand-in has the same modules, the same registry and nothing else.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import mergekit_breadcrumbs

HOOK_FILES = ("mergekit_breadcrumbs.pth", "mergekit_breadcrumbs.start")
COMMAND_FILE = "mergekit_breadcrumbs_command.py"

# Each module first calls `pauses.here`, where a test can make it slow.
STAND_IN = {
    "pauses.py": """
        import time
        SECONDS = {}
        def here(name):
            time.sleep(SECONDS.get(name, 0))
        """,
    "mergekit-9.8.7.dist-info/METADATA": """
        Metadata-Version: 2.1
        Name: mergekit
        Version: 9.8.7
        """,
    "mergekit/__init__.py": """
        import pauses; pauses.here(__name__)
        """,
    "mergekit/merge_methods/__init__.py": """
        import pauses; pauses.here(__name__)
        from mergekit.merge_methods.base import Method
        from mergekit.merge_methods.registry import get, registered_methods
        """,
    "mergekit/merge_methods/base.py": """
        import pauses; pauses.here(__name__)
        class Method:
            def __init__(self, name):
                self.name = name
            def __eq__(self, other):
                return type(self) is type(other) and self.name == other.name
        """,
    "mergekit/merge_methods/registry.py": """
        import pauses; pauses.here(__name__)
        from mergekit.merge_methods.base import Method
        _METHODS = {}
        def register(method):
            if method.name in _METHODS:
                raise ValueError(f"{method.name} is already registered")
            _METHODS[method.name] = method
        def get(name):
            return _METHODS[name]
        def registered_methods():
            return tuple(_METHODS.values())
        for name in ("linear", "breadcrumbs", "breadcrumbs_ties", "della"):
            register(Method(name))
        pauses.here("end of registry")
        """,
}

# In the place of `mergekit_breadcrumbs/host/method.py`; the rest is the package's own.
METHOD = """
    import pauses; pauses.here(__name__)
    from mergekit.merge_methods.base import Method
    class BreadcrumbsMerge(Method):
        pass
    BreadcrumbsMerge.__module__ = "mergekit_breadcrumbs"
    METHODS = (BreadcrumbsMerge("breadcrumbs"), BreadcrumbsMerge("breadcrumbs_ties"))
    def register(registry):
        for method in METHODS:
            registry._METHODS[method.name] = method
    """


# Python 3.15 reads `.start` files.
VERSIONS = tuple(f"3.{minor}" for minor in range(10, 16))
RUNNING = f"3.{sys.version_info.minor}"


def _find_python(version: str) -> Path | None:
    """Find a Python of this version: the running one, one of pyenv's, or on PATH."""
    if version == RUNNING:
        return Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [
        *sorted((pyenv / "versions").glob(f"{version}.*/bin/python")),
        # Where pyenv has put a shim there, it may have no Python behind it.
        *filter(None, [shutil.which(f"python{version}")]),
    ]
    code = "import sys, venv; print('3.%d' % sys.version_info.minor)"
    for python in map(Path, candidates):
        if _run(python, "-c", code).stdout.strip() == version:
            return python
    return None


def _run(
    python: Path, *arguments: str | Path, cwd: Path | None = None, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run a Python, with nothing of the test process's own settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        # Files that will be gone must not be in the report of coverage.
        if not name.startswith(("PYTHON", "COVERAGE", "MERGEKIT"))
    }
    return subprocess.run(
        [python, *arguments],
        env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


PYTHONS = {version: python for version in VERSIONS if (python := _find_python(version))}
"""Those that this machine has, of the versions that the package is for."""


class Environment:
    """A virtual environment without pip, empty unless something is added."""

    def __init__(self, root: Path, python: Path = Path(sys.executable)) -> None:
        made = _run(python, "-m", "venv", "--without-pip", "--symlinks", root)
        assert made.returncode == 0, made.stderr
        self.root = root
        self.python = root / "bin" / "python"
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site_packages = Path(self.run("-c", code).stdout.strip())

    def run(
        self, *arguments: str, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run its Python in its folder."""
        return _run(self.python, *arguments, cwd=self.root, **variables)

    def pip(self, *arguments: str) -> None:
        """Run the test environment's pip on this one, without an index."""
        command = ("-m", "pip", "--python", self.python, *arguments)
        run = _run(Path(sys.executable), *command, cwd=self.root, PIP_NO_INDEX="1")
        assert run.returncode == 0, run.stderr

    def ask(self, code: str, *options: str, **variables: str) -> Any:
        """Run code that prints JSON, and nothing else on either stream."""
        run = self.run(*options, "-c", textwrap.dedent(code), **variables)
        assert (run.returncode, run.stderr) == (0, "")
        return json.loads(run.stdout)

    def write(self, name: str, text: str) -> Path:
        """Write a file of `site_packages`."""
        path = self.site_packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
        return path

    def change(self, name: str, text: str) -> None:
        """Write a file of `site_packages` in the place of one that is there."""
        assert (self.site_packages / name).is_file(), f"{name} has moved"
        self.write(name, text)

    def add_mergekit(self) -> None:
        """Add the stand-in for mergekit."""
        for name, text in STAND_IN.items():
            self.write(name, text)

    def add_plugin(self) -> None:
        """Add the installed package with its hook, and a method for the stand-in."""
        package = Path(mergekit_breadcrumbs.__file__).parent
        for source in package.rglob("*.py"):
            name = source.relative_to(package.parent).as_posix()
            self.write(name, source.read_text())
        self.change_method()
        for path in distribution("mergekit-breadcrumbs").files or []:
            if path.name in (*HOOK_FILES, COMMAND_FILE):
                shutil.copy(str(path.locate()), self.site_packages)
        metadata = "Metadata-Version: 2.1\nName: mergekit-breadcrumbs\nVersion: 9.8.7\n"
        self.write("mergekit_breadcrumbs-9.8.7.dist-info/METADATA", metadata)
        record = "".join(f"{name},,\n" for name in HOOK_FILES)
        self.write("mergekit_breadcrumbs-9.8.7.dist-info/RECORD", record)

    def change_method(self) -> None:
        """Have the installed package register a method for the stand-in."""
        self.change("mergekit_breadcrumbs/host/method.py", METHOD)

    def mirror(self) -> None:
        """Link what the test environment has installed, except this package.

        What is there already stays, so that a stand-in hides the true one.
        """
        for entry in sys.path:
            if Path(entry).name not in {"site-packages", "dist-packages"}:
                continue
            for source in Path(entry).iterdir():
                link = self.site_packages / source.name
                ours = "mergekit_breadcrumbs" in source.name
                if not ours and source.suffix != ".pth" and not link.exists():
                    link.symlink_to(source)
