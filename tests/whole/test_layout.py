"""Which module may import which."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.repository import HOOK, SOURCES, START_UP

# The modules of each room, in the order in which they may import one another: only from
# those before. The room's own `__init__` comes before them all.
ROOMS: dict[str, tuple[str, ...]] = {
    START_UP: (),
    "wording": (),
    "writing": (),
    "status": (),
    "core": (
        "thread_modes",
        "threads",
        "workspace",
        "keys",
        "ranks",
        "short_slices",
        "selection",
        "summation",
        "norms",
        "small",
        "flat",
        "task_vector",
        "positions",
        "positions_builder",
        "stored",
        "stored_vector",
        "overflow",
        "recorded",
        "merge",
    ),
    "files": ("manifest", "shards", "reader", "summary"),
    "host": (
        "notices",
        "caller",
        "parameters",
        "chat_templates",
        "attempt",
        "files",
        "lookup",
        "weights",
        "loading",
        "planner",
        "losses",
        "planning",
        "adapter_cache",
        "output_dtype",
        "overlay",
        "references",
        "from_files",
        "alignment",
        "method",
        "recorder",
        "repeat",
        "in_memory",
    ),
    "check": (
        "codes",
        "problems",
        "limits",
        "yaml_slips",
        "config_file",
        "sections",
        "schema",
        "header",
        "parameters",
        "wire",
        "listing",
        "hub",
        "names",
        "adapter_fit",
        "adapter_cache",
        "adapters",
        "breadcrumb_files",
        "models",
        "paths",
        "layout",
        "layers",
        "plan",
        "resolved",
        "file_limits",
        "dtypes",
        "tensors",
        "tokenizer_files",
        "tokenizer_source",
        "numbering",
        "vocabularies",
        "vocabulary_size",
        "vocabulary",
        "tokenizer_copy",
        "merged_config",
        "forecast",
        "out_folder",
        "before",
        "against_models",
        "run",
        "text",
    ),
    "measure": (
        "tensor_roles",
        "model_names",
        "report",
        "squares",
        "meetings",
        "tally_by_count",
        "tally_by_order",
        "tally_by_compare",
        "measure",
        "dry_run",
        "short_numbers",
        "findings",
        "table",
        "chart_data",
        "picture",
        "run",
    ),
    "verify": (
        "faults",
        "compare",
        "weights",
        "merge_config",
        "model_config",
        "tokenizer",
        "remake",
        "order",
        "tensor_faults",
        "run",
        "text",
    ),
    "tune": (
        "search",
        "scores",
        "trials",
        "report",
        "compare",
        "table",
        "picture",
        "progress",
        "sampling",
        "lost",
        "storage",
        "study",
        "time_limit",
        "command",
        "function",
        "lm_eval_metrics",
        "lm_eval_process",
        "lm_eval_tasks",
        "scorers",
        "scratch",
        "loading",
        "merging",
        "values",
        "best_file",
        "methods",
        "space",
        "rivals",
        "checks",
        "prepare",
        "results",
        "beside",
        "tuning",
        "run",
    ),
    "extract": ("select", "sources", "write", "card", "run", "text"),
    "demo": (
        *("tasks", "training", "folder", "merging"),
        *("small_file", "score_file", "run"),
    ),
    "terminal": (),
    "cli_options": (),
    "cli_extract": (),
    "cli_inspect": (),
    "cli_tune": (),
    "cli": (),
}
# What a room imports from, besides itself; a room sees only rooms before it.
SEES = {
    START_UP: set(),
    "wording": set(),
    "writing": set(),
    "status": {"wording"},
    "core": set(),
    "files": {"wording", "core"},
    "host": {"wording", "core", "files"},
    "check": {"wording", "core", "files", "host"},
    "measure": {"wording", "writing", "core", "files", "host"},
    "verify": {"wording", "core", "files", "host", "check"},
    "tune": {
        *("wording", "writing", "core", "files", "host", "check", "measure", "verify"),
    },
    "extract": {"wording", "core", "files", "host"},
    "demo": {"wording", "writing", "extract"},
    "terminal": {"wording"},
    "cli_options": {"wording", "core", "files", "host", "check", "measure", "verify"},
    "cli_extract": {"cli_options", "files", "extract"},
    "cli_inspect": {"cli_options", "cli_extract", "host", "check", "measure"},
    "cli_tune": {"wording", "cli_options", "tune"},
    "cli": set(ROOMS) - {START_UP, "cli"},
}
IN_ORDER = {
    room: [room, *(f"{room}.{name}" for name in names)] for room, names in ROOMS.items()
}
LISTED = [name for names in IN_ORDER.values() for name in names]
TORCH_ALONE = IN_ORDER["core"]


def imports(source: str, *, everywhere: bool = True) -> set[str]:
    """Return what a source imports, at module level or everywhere, by full name.

    What stands under `if TYPE_CHECKING:` is never executed and does not count.
    """
    names: set[str] = set()
    for node in _statements(ast.parse(source), everywhere):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = inner.removeprefix("mergekit_breadcrumbs.") in SOURCES
                names.add(inner if is_module else str(node.module))
    return names - {"__future__"}


def _statements(node: ast.AST, everywhere: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if everywhere or not isinstance(child, ast.FunctionDef):
            yield child
            yield from _statements(child, everywhere)


def wrong_arrows(name: str, source: str) -> set[str]:
    """Return what the module of this name must not import of the package, but does."""
    room = name.partition(".")[0]
    above = [module for seen in SEES[room] for module in IN_ORDER[seen]]
    before = IN_ORDER[room][: IN_ORDER[room].index(name)]
    ours = {
        module.removeprefix("mergekit_breadcrumbs").removeprefix(".")
        for module in imports(source)
        if module.partition(".")[0] == "mergekit_breadcrumbs"
    }
    return ours - {*above, *before}


def test_reading_of_imports() -> None:
    """Imports are found in every form, in functions, and not for type checkers."""
    source = """
import os.path, torch
from mergekit_breadcrumbs import cli
from mergekit_breadcrumbs.core.merge import merge_task_vectors
if TYPE_CHECKING:
    import typing
try:
    import numpy as np
except ImportError:
    pass
class Thing:
    def method(self):
        from mergekit.merge import run_merge
"""
    module_level = {
        "os.path",
        "torch",
        "numpy",
        "mergekit_breadcrumbs.cli",
        "mergekit_breadcrumbs.core.merge",
    }
    assert imports(source, everywhere=False) == module_level
    assert imports(source) == module_level | {"mergekit.merge"}


def test_every_module_is_listed() -> None:
    """No module without a place in the order above, and no place without a module."""
    assert sorted(LISTED) == sorted(SOURCES)


def test_no_room_sees_another_that_sees_it() -> None:
    """A room sees only rooms that stand before it."""
    rooms = list(ROOMS)
    assert list(SEES) == rooms
    for index, room in enumerate(rooms):
        assert SEES[room] <= set(rooms[:index])


@pytest.mark.parametrize(
    ("name", "imported", "wrong"),
    [
        ("core.ranks", "core.keys", False),
        ("core.keys", "core.ranks", True),
        ("core.keys", "core.keys", True),
        ("core", "core.keys", True),
        ("core.keys", "wording", True),
        ("host.method", "core.merge", False),
        ("core.merge", "host.method", True),
        ("check.run", "host.parameters", False),
        ("check.run", "measure.report", True),
        ("measure.run", "check.problems", True),
        ("verify.run", "host.attempt", False),
        ("check.run", "verify.faults", True),
        ("measure.run", "verify.compare", True),
        ("measure.run", "cli_options", True),
        ("status", "host.method", True),
        ("demo.run", "measure.run", True),
        ("cli", "measure.run", False),
        ("wording", "core.keys", True),
    ],
)
def test_wrong_arrows_are_seen(name: str, imported: str, wrong: bool) -> None:
    """Up, sideways, and against the order of a room, in every form of import."""
    room, _, module = f"mergekit_breadcrumbs.{imported}".rpartition(".")
    for source in (
        f"from {room} import {module}",
        f"import {room}.{module}",
        f"def f():\n    from {room}.{module} import thing",
    ):
        assert wrong_arrows(name, source) == ({imported} if wrong else set())
    # The lazy names of the package are for users: they lead to every room.
    assert wrong_arrows(name, "from mergekit_breadcrumbs import Report") == {""}


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {START_UP}))
def test_arrows_run_one_way(name: str) -> None:
    """A module imports from the rooms that its own sees, and from modules before it."""
    assert wrong_arrows(name, SOURCES[name]) == set()


@pytest.mark.parametrize("name", TORCH_ALONE)
def test_maths_knows_only_torch(name: str) -> None:
    """Selection and merging need torch and NumPy, and nothing of mergekit."""
    found = {module.partition(".")[0] for module in imports(SOURCES[name])}
    third_party = found - sys.stdlib_module_names - {"mergekit_breadcrumbs"}
    assert third_party <= {"torch", "numpy"}


@pytest.mark.parametrize("name", ["status", "wording"])
def test_stands_alone(name: str) -> None:
    """`status` must run where nothing else does, and `wording` is below all."""
    found = {module.partition(".")[0] for module in imports(SOURCES[name])}
    assert found <= sys.stdlib_module_names | {"mergekit_breadcrumbs"}


def test_start_up_imports_nothing_new() -> None:
    """At module level the start-up hook imports what every Python has loaded anyway."""
    source = SOURCES[START_UP]
    assert imports(source, everywhere=False) == {"os", "sys"}
    deferred = {module.partition(".")[0] for module in imports(source)}
    assert deferred <= sys.stdlib_module_names | {"mergekit_breadcrumbs"}


@pytest.mark.parametrize("path", [*HOOK.glob("*.py")], ids=lambda path: path.stem)
def test_hook_stands_alone(path: Path) -> None:
    """What makes the start-up files, and is in them, needs no more than Python."""
    found = {m.partition(".")[0] for m in imports(path.read_text(encoding="utf-8"))}
    assert found <= sys.stdlib_module_names | {"mergekit_breadcrumbs"}
