"""What no config has, and what would keep YAML or mergekit busy for hours.

A few lines of YAML can stand for billions of values, with aliases of aliases, and a
number of a million digits is one value.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.files import MOST_BYTES

MOST_VALUES = 50_000
"""Keys and values in a config, those behind aliases counted each time."""

_LONGEST_NUMBER = 400
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_EVENTS = (yaml.ScalarEvent, yaml.AliasEvent, yaml.CollectionStartEvent)
_SMALL = 20_000  # characters, which cannot be many values


def excess_of_text(text: str) -> str:
    """Return what is too much in a text, before it is parsed; empty if nothing is."""
    if len(text) > MOST_BYTES:
        return f"has more than {MOST_BYTES:,} bytes"
    if len(text) < _SMALL:
        return ""
    # The parser in C, where PyYAML has it, is the only one that is fast enough.
    events = yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    count = 0
    while count <= MOST_VALUES:
        event, _ = attempt(next, events, None)
        if event is None:
            return ""
        count += isinstance(event, _EVENTS)
    return f"has more than {MOST_VALUES:,} keys and values"


def excess_of_nodes(root: yaml.Node) -> tuple[str, yaml.Node | None]:
    """Return what is too much in the parsed nodes, and where; empty if nothing is."""
    if _expanded(root) > MOST_VALUES:
        return f"has more than {MOST_VALUES:,} keys and values behind its aliases", None
    for node in nodes(root):
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            return f"has a number of {len(node.value):,} characters", node
    return "", None


def nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """Yield each node once: an anchor makes one stand in many places, or in itself."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += reversed(_children(node))


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _expanded(root: yaml.Node) -> int:
    """Count nodes behind aliases each time; one within itself, once."""
    sizes: dict[int, int] = {}
    entered: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, counted = waiting.pop()
        children = _children(node)
        if counted:
            size = 1 + sum(sizes.get(id(child), 1) for child in children)
            sizes[id(node)] = min(size, MOST_VALUES + 1)
        elif id(node) not in entered:
            entered.add(id(node))
            waiting.append((node, True))
            waiting += [(child, False) for child in children]
    return sizes[id(root)]
