"""The chat templates that mergekit has."""

from __future__ import annotations

import importlib.resources

from mergekit import _data


def chat_templates() -> list[str]:
    """Return the names by which a config may ask for one."""
    files = importlib.resources.files(_data).joinpath("chat_templates").iterdir()
    return sorted(f.name[:-6] for f in files if f.name.endswith(".jinja"))
