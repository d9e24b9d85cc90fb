"""Modules of this package's name that stand before it on `PYTHONPATH`."""

from pathlib import Path

MODULE, PACKAGE = "mergekit_breadcrumbs.py", "mergekit_breadcrumbs/__init__.py"
# By what is wrong: the files, the first of which Python finds in the package's place.
HIDING = {
    "a module": {MODULE: "value = 1\n"},
    "a package": {PACKAGE: ""},
    "a syntax error": {PACKAGE: "def f(:\n"},
    "an error": {MODULE: "1 / 0\n"},
    "a script that ends": {MODULE: "import sys\nsys.exit('done')\n"},
    "an old checkout": {
        PACKAGE: "",
        "mergekit_breadcrumbs/cli.py": "import nothing_of_the_kind\n",
        "mergekit_breadcrumbs/status.py": "1 / 0\n",
    },
}


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write the files into a folder; return the first."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / next(iter(files))
