"""Writes the two start-up files from `at_start.py`, which is the one to change.

    python mergekit_breadcrumbs/hook/write.py

Each line of a `.pth` file is run on its own, so one line has to hold everything. From
3.15 on Python reads the `.start` file instead, which names the callable (PEP 829).
"""

import ast
from pathlib import Path

HOOK = Path(__file__).parent


def files() -> dict[str, str]:
    """Return the text of both files by name."""
    tree = ast.parse((HOOK / "at_start.py").read_text(encoding="utf-8"))
    [attempt] = (node for node in tree.body if isinstance(node, ast.Try))
    [entry] = (node for node in attempt.body if isinstance(node, ast.ImportFrom))
    [handler] = attempt.handlers
    # Compiling takes time at every start: a failure is compiled when there is one. In a
    # namespace of its own, which a function that outlives it can still see.
    failure = ast.unparse(ast.Module(handler.body, type_ignores=[]))
    handler.body = ast.parse(f"exec({failure!r}, {{'error': {handler.name}}})").body
    # A virtual environment runs the line twice, and the second
    # time it must cost nothing.
    code = ast.unparse(attempt)
    package = entry.module
    line = f'import sys; "{package}" in sys.modules or exec({code!r})\n'
    callable_name = f"{package}:{entry.names[0].name}\n"
    return {f"{package}.pth": line, f"{package}.start": callable_name}


if __name__ == "__main__":
    for name, text in files().items():
        (HOOK / name).write_text(text, encoding="utf-8")
