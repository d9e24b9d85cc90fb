"""Reading a config file: YAML to data, and from a place in it back to the line."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.limits import excess_of_nodes, excess_of_text, nodes
from mergekit_breadcrumbs.check.problems import Mark, Place, Problems
from mergekit_breadcrumbs.check.yaml_slips import likely_cause, look_alike
from mergekit_breadcrumbs.host.attempt import attempt, first_line
from mergekit_breadcrumbs.host.files import read_config_file
from mergekit_breadcrumbs.wording import missing_space, one_line, shortened

LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""What ends a line, as YAML counts lines."""

_Pairs = dict[str, tuple[yaml.Node, yaml.Node]]
_TEXT = "tag:yaml.org,2002:str"


@dataclass(frozen=True)
class ConfigFile:
    """The data of a YAML file, and the nodes that know where it stands.

    `shelves` are the keys at the top that hold what other keys take by an alias.
    """

    data: dict[Any, Any]
    root: yaml.Node
    shelves: frozenset[str] = frozenset()
    _pairs: dict[int, _Pairs] = field(default_factory=dict, compare=False)

    def mark_of(self, place: Place) -> Mark | None:
        """Return where a place stands, or what is nearest around it."""
        mark, node = None, self.root
        for step in place:
            if isinstance(node, yaml.MappingNode):
                name, _ = attempt(str, step)  # no integer of more than 4300 digits
                pair = self._pairs_of(node).get(name or "")
                if pair is None:
                    break
                key, node = pair
                mark = mark_of_node(key)
            elif isinstance(node, yaml.SequenceNode) and is_index(step, node.value):
                node = node.value[step]
                mark = mark_of_node(node)
            else:
                break
        return mark

    def _pairs_of(self, node: yaml.MappingNode) -> _Pairs:
        """Return a mapping's keys and values by the text of the key."""
        if id(node) not in self._pairs:
            # Of equal keys the last one counts, and merged ones come first.
            self._pairs[id(node)] = {
                pair[0].value: pair
                for pair in node.value
                if isinstance(pair[0], yaml.ScalarNode)
            }
        return self._pairs[id(node)]


def read_text(path: Path, problems: Problems) -> str | None:
    """Return the text of a config file; what makes that impossible becomes an error."""
    try:
        content = read_config_file(path)
    except (OSError, ValueError) as error:  # a name with NUL is a ValueError
        what = getattr(error, "strerror", None) or error
        problems.add(Code.NOT_YAML, (), f"the file cannot be read: {what}")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = f"{content[error.start]:#04x}"
        text = f"not UTF-8 text: the byte {byte} cannot stand there"
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = "not UTF-8 text, but UTF-16: save it as UTF-8"
        problems.add(Code.NOT_YAML, (), text, Mark(line, 1, 1))
        return None


def read_config(text: str, problems: Problems) -> ConfigFile | None:
    """Parse a config; what makes that impossible becomes an error.

    Example:
        >>> problems = Problems()
        >>> file = read_config("merge_method: breadcrumbs\\ndtype: float32", problems)
        >>> file.mark_of(("dtype",)).line
        2
    """
    if excess := excess_of_text(text):
        problems.add(Code.TOO_LARGE, (), f"the file {excess}: that is no config")
        return None
    data, root, shelves = None, None, frozenset[str]()
    loader, error = attempt(yaml.SafeLoader, text)
    if loader is not None:
        root, error = attempt(loader.get_single_node)
    if loader is not None and root is not None:
        excess, node = excess_of_nodes(root)
        if excess:
            mark = mark_of_node(node) if node else None
            text = f"the file {excess}: that is no config"
            problems.add(Code.TOO_LARGE, (), text, mark)
            return None
        # The constructor comes after this: it drops equal keys, and aliases.
        _check_nodes(root, problems)
        shelves = _shelves(root)
        data, error = attempt(loader.construct_document, root)
    if isinstance(error, RecursionError):
        problems.add(Code.NOT_YAML, (), "the file is nested too deeply")
    elif error is not None:
        _report_syntax(error, text, root, problems)
    elif root is None:
        problems.add(Code.NOT_YAML, (), "the file is empty")
    elif isinstance(data, dict):
        return ConfigFile(data, root, shelves)
    else:
        text = f"must be a mapping (name: value); got {one_line(data)}"
        problems.add(Code.WRONG_VALUE, (), text + missing_space(data))
    return None


def _shelves(root: yaml.Node) -> frozenset[str]:
    """Return the keys under which something has an anchor that another key uses."""
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    held = [{id(node): node for node in nodes(value)} for _, value in pairs]
    users = Counter(name for inner in held for name in inner)
    # Where an anchor is, comes before what uses it; a node knows where its anchor is.
    return frozenset(
        key.value
        for (key, _), inner in zip(pairs, held, strict=True)
        if isinstance(key, yaml.ScalarNode)
        for name, node in inner.items()
        if users[name] > 1 and node.start_mark.index > key.start_mark.index
    )


def is_index(step: Any, values: list[Any]) -> bool:
    """Whether a step of a place leads to one of the values."""
    # Of what is no integer, a range would be searched.
    return isinstance(step, int) and step in range(len(values))


def mark_of_node(node: yaml.Node) -> Mark:
    """Return where a node starts, with its length as far as it is on that line."""
    start, end = node.start_mark, node.end_mark
    length = end.column - start.column if end.line == start.line else 1
    return Mark(start.line + 1, start.column + 1, max(length, 1))


def _report_syntax(
    error: Exception, text: str, root: yaml.Node | None, problems: Problems
) -> None:
    where, cause = getattr(error, "problem_mark", None), ""
    mark = Mark(where.line + 1, where.column + 1, 1) if where else None
    what = getattr(error, "problem", None) or first_line(error)
    if "another document" in what:
        text = (
            "more than one document: this is a config for mergekit-multi; to inspect a"
            " merge, put it into a file of its own"
        )
        problems.add(Code.OTHER_COMMAND, (), text, mark)
        return
    if isinstance(error, yaml.MarkedYAMLError):
        cause = likely_cause(error, LINE_BREAK.split(text))
    elif isinstance(error, yaml.reader.ReaderError):
        before = LINE_BREAK.split(text[: error.position])
        mark = Mark(len(before), len(before[-1]) + 1, 1)
        what = f"the character U+{ord(text[error.position]):04X} cannot stand there"
    elif root is not None and (node := _unusable(root)):
        mark = mark_of_node(node)
        kind = node.tag.rpartition(":")[2]
        cause = f"put it in quotes if it is no {kind}"
    what = shortened(what)
    problems.add(
        Code.NOT_YAML,
        (),
        f"not valid YAML: {what}{f': {cause}' if cause else ''}",
        mark,
    )


def _unusable(root: yaml.Node) -> yaml.Node | None:
    """Return a scalar that looks like a date or a number, but is none."""
    for node in nodes(root):
        if isinstance(node, yaml.ScalarNode) and node.tag != _TEXT:
            _, error = attempt(yaml.SafeLoader("").construct_object, node)
            if error is not None:
                return node
    return None


def _check_nodes(root: yaml.Node, problems: Problems) -> None:
    """Report keys that stand twice in one mapping: YAML's last one wins silently.

    And characters that look like a quote or a space, and are none for YAML.
    """
    # An anchor makes one node stand in many places, itself included.
    seen: set[int] = set()
    waiting: list[tuple[Place, yaml.Node]] = [((), root)]
    while waiting:
        place, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        _check_characters(node, place, problems)
        if isinstance(node, yaml.SequenceNode):
            waiting += [((*place, i), child) for i, child in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, child in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                waiting.append(((*place, key.value), child))
                _check_characters(key, (*place, key.value), problems)
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines and key.value != "<<":
                    text = f"written twice (first on line {lines[name]})"
                    here = mark_of_node(key)
                    problems.add(Code.EQUAL_KEYS, (*place, key.value), text, here)
                lines.setdefault(name, line)


def _check_characters(node: yaml.Node, place: Place, problems: Problems) -> None:
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return
    # Inside of a text they may well be meant.
    ends = node.value[:1] + node.value[-1:]
    if found := look_alike(ends):
        text = f"begins or ends with {found}, which YAML takes for part of the text"
        problems.add(Code.LOOK_ALIKE, place, text, mark_of_node(node))
