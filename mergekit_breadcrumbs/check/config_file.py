"""Reading a config file: YAML to data, and from a place in it back to the line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from mergekit_breadcrumbs.check.attempt import attempt
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.wording import one_line


@dataclass(frozen=True)
class ConfigFile:
    """The data of a YAML file, and the nodes that know where it stands."""

    data: dict[Any, Any]
    root: yaml.Node

    def line_of(self, place: Place) -> int | None:
        """Return the line (from 1) of a place, or of what is nearest around it."""
        line, node = None, self.root
        for step in place:
            if isinstance(node, yaml.MappingNode):
                # Of equal keys the last one counts, and merged ones come first.
                pairs = [p for p in node.value if p[0].value == str(step)]
                if not pairs:
                    break
                key, node = pairs[-1]
                line = key.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and step in range(len(node.value)):
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                break
        return line


def read_config(text: str, problems: Problems) -> ConfigFile | None:
    """Parse a config; what makes that impossible becomes an error.

    Example:
        >>> problems = Problems()
        >>> file = read_config("merge_method: breadcrumbs\\ndtype: float32", problems)
        >>> file.line_of(("dtype",))
        2
    """
    data = root = None
    loader, error = attempt(yaml.SafeLoader, text)
    if loader is not None:
        root, error = attempt(loader.get_single_node)
    if loader is not None and root is not None:
        # The constructor comes after this: it drops equal keys.
        _check_equal_keys(root, problems)
        data, error = attempt(loader.construct_document, root)
    if isinstance(error, RecursionError):
        problems.error((), "the file is nested too deeply")
    elif error is not None:
        problems.error((), *_syntax_error(error))
    elif root is None:
        problems.error((), "the file is empty")
    elif isinstance(data, dict):
        return ConfigFile(data, root)
    else:
        problems.error((), f"must be a mapping (name: value); got {one_line(data)}")
    return None


def _syntax_error(error: Exception) -> tuple[str, int | None]:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else None
    what = getattr(error, "problem", None) or str(error) or type(error).__name__
    if "another document" in what:
        return (
            "more than one document: this is a config for mergekit-multi; to inspect a"
            " merge, put it into a file of its own",
            line,
        )
    if r"'\t'" in what:
        what += ": YAML is indented with spaces, not tabs"
    return f"not valid YAML: {' '.join(what.split())}", line


def _check_equal_keys(root: yaml.Node, problems: Problems) -> None:
    """Report keys that stand twice in one mapping: YAML's last one wins silently."""
    # An anchor makes one node stand in many places, itself included.
    seen: set[int] = set()
    waiting: list[tuple[Place, yaml.Node]] = [((), root)]
    while waiting:
        place, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [((*place, i), child) for i, child in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, child in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                waiting.append(((*place, key.value), child))
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines and key.value != "<<":
                    text = f"written twice (first on line {lines[name]})"
                    problems.error((*place, key.value), text, line)
                lines.setdefault(name, line)
