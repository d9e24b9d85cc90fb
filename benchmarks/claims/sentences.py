"""Three tasks on sentences from installed packages: the first one of each docstring.

Which library is it from; which part of SciPy; which part of PyTorch? Names that give
the answer away are replaced. The sources are read, not imported.
"""

from __future__ import annotations

import ast
import random
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

EACH = 300
"""The most sentences of a class, so that the classes are of similar size."""


class Sentences(NamedTuple):
    """A task: its classes, and sentences with the number of their class."""

    name: str
    classes: tuple[str, ...]
    train: list[tuple[str, int]]
    validation: list[tuple[str, int]]
    test: list[tuple[str, int]]


SOURCES = {
    "library": ("numpy", "pandas", "sklearn", "matplotlib"),
    "scipy": tuple(
        f"scipy.{part}"
        for part in ("stats", "signal", "sparse", "optimize", "special", "interpolate")
    ),
    "torch": tuple(
        f"torch.{part}"
        for part in ("nn", "distributed", "fx", "distributions", "optim", "utils")
    ),
}


def _folder(name: str) -> Path:
    # Only the top package is looked up: finding a submodule imports its parents.
    top, *rest = name.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the sentences of {name} need {top} to be installed")
    return Path(spec.submodule_search_locations[0], *rest)


def first_sentence(docstring: str) -> str:
    """Return the first sentence as plain lower-case words.

    >>> first_sentence("Compute ``x`` fast.  And more.")
    'compute x fast'
    """
    paragraph = docstring.strip().split("\n\n")[0]
    sentence = re.split(r"\.\s|\.$|:$", " ".join(paragraph.split()))[0]
    return re.sub(r"[^a-z0-9,' -]+", "", sentence.lower()).strip()


def _docstrings(name: str) -> set[str]:
    found = set()
    for file in sorted(_folder(name).rglob("*.py")):
        if "test" in file.as_posix().split("site-packages")[-1]:
            continue
        with warnings.catch_warnings():
            # Other people's invalid escapes.
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_text(encoding="utf-8", errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(first_sentence(ast.get_docstring(node) or ""))
    return {text for text in found if len(text.split()) >= 5}


def load(task: str, seed: int = 0) -> Sentences:
    """Collect and split a task's sentences, except those that two classes share."""
    classes = SOURCES[task]
    texts = {name: _docstrings(name) for name in classes}
    told = re.compile(
        r"\b("
        + "|".join(part for name in classes for part in name.split("."))
        + r"|scikit-learn|pytorch)\b"
    )
    rng = random.Random(seed)
    parts: tuple[list[tuple[str, int]], ...] = ([], [], [])
    for number, name in enumerate(classes):
        others = set().union(*(texts[other] for other in classes if other != name))
        chosen = sorted(texts[name] - others)
        rng.shuffle(chosen)
        chosen = [told.sub("it", text) for text in chosen[:EACH]]
        half, most = len(chosen) // 2, len(chosen) * 2 // 3
        for part, rows in zip(
            parts, (chosen[:half], chosen[half:most], chosen[most:]), strict=True
        ):
            part += [(text, number) for text in rows]
    return Sentences(task, classes, *parts)
