"""Reading a config file: YAML to data, and from a place in it back to the line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.problems import Mark, Place, Problems
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.wording import one_line


@dataclass(frozen=True)
class ConfigFile:
    """The data of a YAML file, and the nodes that know where it stands."""

    data: dict[Any, Any]
    root: yaml.Node

    def mark_of(self, place: Place) -> Mark | None:
        """Return where a place stands, or what is nearest around it."""
        mark, node = None, self.root
        for step in place:
            if isinstance(node, yaml.MappingNode):
                # Of equal keys the last one counts, and merged ones come first.
                pairs = [p for p in node.value if p[0].value == str(step)]
                if not pairs:
                    break
                key, node = pairs[-1]
                mark = _mark(key)
            elif isinstance(node, yaml.SequenceNode) and step in range(len(node.value)):
                node = node.value[step]
                mark = _mark(node)
            else:
                break
        return mark


def read_config(text: str, problems: Problems) -> ConfigFile | None:
    """Parse a config; what makes that impossible becomes an error.

    Example:
        >>> problems = Problems()
        >>> file = read_config("merge_method: breadcrumbs\\ndtype: float32", problems)
        >>> file.mark_of(("dtype",)).line
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
        problems.add(Code.NOT_YAML, (), "the file is nested too deeply")
    elif error is not None:
        _report_syntax(error, problems)
    elif root is None:
        problems.add(Code.NOT_YAML, (), "the file is empty")
    elif isinstance(data, dict):
        return ConfigFile(data, root)
    else:
        text = f"must be a mapping (name: value); got {one_line(data)}"
        problems.add(Code.WRONG_VALUE, (), text)
    return None


def _mark(node: yaml.Node) -> Mark:
    """Return where a node starts, with its length as far as it is on that line."""
    start, end = node.start_mark, node.end_mark
    length = end.column - start.column if end.line == start.line else 1
    return Mark(start.line + 1, start.column + 1, max(length, 1))


def _report_syntax(error: Exception, problems: Problems) -> None:
    where = getattr(error, "problem_mark", None)
    mark = Mark(where.line + 1, where.column + 1, 1) if where else None
    what = getattr(error, "problem", None) or str(error) or type(error).__name__
    if "another document" in what:
        text = (
            "more than one document: this is a config for mergekit-multi; to inspect a"
            " merge, put it into a file of its own"
        )
        problems.add(Code.OTHER_COMMAND, (), text, mark)
        return
    if r"'\t'" in what:
        what += ": YAML is indented with spaces, not tabs"
    text = f"not valid YAML: {' '.join(what.split())}"
    problems.add(Code.NOT_YAML, (), text, mark)


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
                    problems.add(Code.EQUAL_KEYS, (*place, key.value), text, _mark(key))
                lines.setdefault(name, line)
