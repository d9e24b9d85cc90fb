"""The examples as data: their documents, and the commands that their comments give."""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support.repository import ROOT

EXAMPLES = sorted((ROOT / "examples" / "yaml").glob("*.yml"))


@dataclass(frozen=True)
class Example:
    """An example: its text, its documents, and the command that its comment gives."""

    file: Path

    @classmethod
    def named(cls, name: str) -> "Example":
        (file,) = (file for file in EXAMPLES if file.stem == name)
        return cls(file)

    @property
    def text(self) -> str:
        return self.file.read_text(encoding="utf-8")

    @property
    def documents(self) -> list[dict[str, Any]]:
        return list(yaml.safe_load_all(self.text))

    def command(self, program: str) -> list[str]:
        """Return the one command in the comments that starts with `program`."""
        lines = re.findall(r"^#\s*(.*)$", self.text, flags=re.MULTILINE)
        joined = "\n".join(lines).replace("\\\n", " ")
        found = re.findall(rf"^(?:.*: |\w+=\S+ )?({program}.*)$", joined, re.MULTILINE)
        assert len(found) == 1, f"{self.file.name}: {len(found)} commands {program}"
        return shlex.split(found[0])


def with_references(node: Any, change: Callable[[str], str]) -> Any:
    """Return a parsed config with every model reference in it changed."""
    if isinstance(node, list):
        return [with_references(item, change) for item in node]
    if not isinstance(node, dict):
        return node
    result = {}
    for key, value in node.items():
        is_model = key in ("model", "base_model", "tokenizer_source") or (
            key == "source" and value not in ("union", "base")
        )
        result[key] = (
            change(value)
            if is_model and isinstance(value, str)
            else with_references(value, change)
        )
    return result


def parameter_mappings(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping under a key `parameters`, at any depth."""
    if isinstance(node, list):
        for item in node:
            yield from parameter_mappings(item)
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "parameters":
                yield value
            yield from parameter_mappings(value)
