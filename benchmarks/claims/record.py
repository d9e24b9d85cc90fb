"""The JSON with every result, from which the report can be written again."""

from __future__ import annotations

import json
from typing import NamedTuple

from claims.course import Plan
from claims.run import Known


class Record(NamedTuple):
    """All that a report is made of.

    `tasks` are the names of the tasks, which results give by their number.
    """

    conditions: str
    plan: Plan
    tasks: list[str]
    known: Known

    def to_json(self) -> str:
        """Return it as JSON, one line for each result."""
        head = json.dumps(
            {
                "conditions": self.conditions,
                "plan": self.plan._asdict(),
                "tasks": self.tasks,
            }
        )
        entries = (
            f"{json.dumps(key)}: {json.dumps(entry)}"
            for key, entry in self.known.items()
        )
        results = ",\n".join(entries)
        return f'{head[:-1]},\n"results": {{\n{results}\n}}}}\n'


def from_json(text: str) -> Record:
    """Return what was written."""
    found = json.loads(text)
    plan = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in found["plan"].items()
    }
    return Record(found["conditions"], Plan(**plan), found["tasks"], found["results"])
