"""How the plugin is found: fresh Pythons, with a stand-in for mergekit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.environments import Environment

SHOW = """
import json
from mergekit.merge_methods import registry
print(json.dumps([[m.name, type(m).__module__] for m in registry.registered_methods()]))
"""
STAND_IN = "mergekit.merge_methods.base"
BUILT_IN = [
    ["linear", STAND_IN],
    ["breadcrumbs", STAND_IN],
    ["breadcrumbs_ties", STAND_IN],
    ["della", STAND_IN],
]
OURS = [
    ["linear", STAND_IN],
    ["breadcrumbs", "mergekit_breadcrumbs"],
    ["breadcrumbs_ties", "mergekit_breadcrumbs"],
    ["della", STAND_IN],
]


@pytest.fixture
def environment(python: Path, tmp_path: Path) -> Environment:
    """An environment with the stand-in, the plugin and its hook."""
    environment = Environment(tmp_path / "venv", python)
    environment.add_mergekit()
    environment.add_plugin()
    return environment


@pytest.fixture(scope="module")
def unchanged(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The same, shared by the tests that change nothing of it, with a pickle."""
    environment = Environment(tmp_path_factory.mktemp("shared") / "venv", python)
    environment.add_mergekit()
    environment.add_plugin()
    code = """
        import json, pathlib, pickle
        from mergekit.merge_methods import registry
        pickled = pickle.dumps(registry.get("breadcrumbs"))
        print(pathlib.Path("method.pickle").write_bytes(pickled))
        """
    assert environment.ask(code) > 0
    return environment


def loaded_by_hook(environment: Environment) -> set[str]:
    """Say which modules a start of Python loads because of the hook."""
    code = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    with_hook = set(environment.ask(code))
    # From 3.13 on Python loads a codec to read a `.pth` file, whatever is in it.
    environment.change("mergekit_breadcrumbs.pth", "# nothing\n")
    return with_hook - set(environment.ask(code))


def test_start_loads_nothing_but_the_hook(environment: Environment) -> None:
    """A start of Python loads one module of ours: no torch, mergekit or pydantic."""
    assert loaded_by_hook(environment) == {"mergekit_breadcrumbs"}


@pytest.mark.parametrize("heavy", ["typing", "mergekit.merge_methods.base"])
def test_start_check_can_fail(environment: Environment, heavy: str) -> None:
    """The check above notices one import too many, of the package or of mergekit."""
    init = environment.site_packages / "mergekit_breadcrumbs" / "__init__.py"
    init.write_text(f"import {heavy}\n" + init.read_text())
    assert heavy in loaded_by_hook(environment)


def test_hook_that_runs_twice_puts_one_finder(unchanged: Environment) -> None:
    """A virtual environment runs `.pth` files twice, and one finder is armed."""
    code = """
        import json, sys
        print(json.dumps([type(f).__name__ for f in sys.meta_path if "mergekit" in
                          type(f).__module__]))
        """
    counter = unchanged.write(
        "zz_counter.pth", "import sys; sys.runs = getattr(sys, 'runs', 0) + 1\n"
    )
    runs = unchanged.ask("import sys; print(sys.runs)")
    counter.unlink()
    assert runs == 2
    assert unchanged.ask(code) == ["_RegistryFinder"]


# ------------------------------------------------------------------------------ order

# What a process does first. Where the hook does not run it has to import the plugin.
WITHOUT_HOOK = {
    "plugin, then mergekit": "import mergekit_breadcrumbs, mergekit.merge_methods",
    "mergekit, then plugin": "import mergekit.merge_methods, mergekit_breadcrumbs",
    "registry, then plugin": (
        "import mergekit.merge_methods.registry, mergekit_breadcrumbs"
    ),
    "method": "import mergekit_breadcrumbs.host.method",
    "public name": "from mergekit_breadcrumbs import BreadcrumbsMerge",
    "unpickling": """
import pathlib, pickle
first = pickle.loads(pathlib.Path("method.pickle").read_bytes())
from mergekit.merge_methods import registry
assert registry.get("breadcrumbs") == first, first
""",
}
WITH_HOOK = {
    "nothing": "",
    "mergekit": "import mergekit.merge_methods",
    "registry": "import mergekit.merge_methods.registry",
    "reload": """
import importlib
from mergekit.merge_methods import registry
importlib.reload(registry)
importlib.reload(registry)
""",
    "imported anew": """
import sys, mergekit.merge_methods
for name in [name for name in sys.modules if name.startswith("mergekit.")]:
    del sys.modules[name]
""",
    "table rebound, then armed": """
from mergekit.merge_methods import base, registry
registry._METHODS = {name: base.Method(name) for name in registry._METHODS}
import mergekit_breadcrumbs
mergekit_breadcrumbs._arm()
""",
    **WITHOUT_HOOK,
}


@pytest.mark.parametrize("first", WITH_HOOK.values(), ids=WITH_HOOK)
def test_replaced_once_with_hook(unchanged: Environment, first: str) -> None:
    """Both names are ours, once and in their old places, whatever comes first."""
    assert unchanged.ask(first + SHOW) == OURS


@pytest.mark.parametrize("first", WITHOUT_HOOK.values(), ids=WITHOUT_HOOK)
def test_replaced_once_without_hook(unchanged: Environment, first: str) -> None:
    """Where `.pth` files do not run, importing the plugin is enough."""
    path = {"PYTHONPATH": str(unchanged.site_packages)}
    assert unchanged.ask(SHOW, "-S", **path) == BUILT_IN
    assert unchanged.ask(first + SHOW, "-S", **path) == OURS


def test_registry_looks_untouched(unchanged: Environment) -> None:
    """The registry keeps its own loader, while it runs and after, and its source."""
    code = """
        import inspect, json, sys
        import pauses
        def here(name):
            if name == "end of registry":
                module = sys.modules["mergekit.merge_methods.registry"]
                seen.append(type(module.__spec__.loader).__name__)
                seen.append(type(module.__loader__).__name__)
        seen, pauses.here = [], here
        from mergekit.merge_methods import registry
        seen.append(type(registry.__spec__.loader).__name__)
        seen.append(type(registry.__loader__).__name__)
        assert "def registered_methods" in inspect.getsource(registry)
        print(json.dumps(seen))
        """
    assert unchanged.ask(code) == ["SourceFileLoader"] * 4


@pytest.mark.parametrize("name", ["aa_other", "zz_other"], ids=["before", "after"])
def test_two_plugins_of_this_kind(environment: Environment, name: str) -> None:
    """Another plugin with a copy of our finder works beside it, on either side."""
    ours = environment.site_packages / "mergekit_breadcrumbs" / "__init__.py"
    text = ours.read_text().replace("mergekit_breadcrumbs", "other_plugin")
    environment.write("other_plugin/__init__.py", text)
    environment.write("other_plugin/host/__init__.py", "")
    environment.write(
        "other_plugin/host/method.py",
        """
        from mergekit.merge_methods.base import Method
        class Other(Method):
            pass
        def register(registry):
            registry._METHODS["della"] = Other("della")
        """,
    )
    environment.write(f"{name}.pth", "import other_plugin\n")
    both = [*OURS[:3], ["della", "other_plugin.host.method"]]
    assert environment.ask(SHOW) == both
    loader = """
        import json
        from mergekit.merge_methods import registry
        print(json.dumps([type(registry.__spec__.loader).__name__,
                          type(registry.__loader__).__name__]))
        """
    assert environment.ask(loader) == ["SourceFileLoader"] * 2


# ----------------------------------------------------------------------------- switch

CHILDREN = """
import json, multiprocessing, os, subprocess, sys

def serving():
    from mergekit.merge_methods import registry
    return type(registry.get("breadcrumbs")).__module__

def main():
    if sys.argv[1] == "subprocess":
        code = "import children; print(children.serving())"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True,
                             text=True, check=True).stdout.strip()
    else:
        with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
            out = pool.apply(serving)
    print(json.dumps(out))
"""


@pytest.mark.parametrize("kind", ["subprocess", "spawn", "fork", "forkserver"])
@pytest.mark.parametrize(
    ("switch", "module"),
    [("0", STAND_IN), ("require", "mergekit_breadcrumbs")],
    ids=["off", "required"],
)
def test_switch_holds_in_children(
    environment: Environment, kind: str, switch: str, module: str
) -> None:
    """Child processes of every kind follow `MERGEKIT_BREADCRUMBS`."""
    environment.write("children.py", CHILDREN)
    code = "import children; children.main()"
    run = environment.run("-c", code, kind, MERGEKIT_BREADCRUMBS=switch)
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout) == module


def test_switched_off_stays_off(unchanged: Environment) -> None:
    """With `MERGEKIT_BREADCRUMBS=0` even an explicit import leaves the built-ins."""
    code = "import mergekit_breadcrumbs.host.method\n" + SHOW
    assert unchanged.ask(code, MERGEKIT_BREADCRUMBS="0") == BUILT_IN


Damage = Callable[[Path], object]


def _no_mergekit(site: Path) -> None:
    shutil.rmtree(site / "mergekit")


def _raising_method(site: Path) -> None:
    (site / "mergekit_breadcrumbs" / "host" / "method.py").write_text("1 / 0\n")


def _no_method(site: Path) -> None:
    (site / "mergekit_breadcrumbs" / "host" / "method.py").unlink()


def _foreign_registry(site: Path) -> None:
    registry = site / "mergekit" / "merge_methods" / "registry.py"
    registry.write_text(registry.read_text().replace("_METHODS", "_TABLE"))


def _bad_syntax(site: Path) -> None:
    (site / "mergekit_breadcrumbs" / "__init__.py").write_text("def _arm(:\n")


def _no_init(site: Path) -> None:
    (site / "mergekit_breadcrumbs" / "__init__.py").unlink()


def _no_package(site: Path) -> None:
    shutil.rmtree(site / "mergekit_breadcrumbs")


# Broken so that the hook still arms: registering fails, and says so.
REGISTERING_FAILS = {
    "method raises": _raising_method,
    "method removed": _no_method,
    "registry without its table": _foreign_registry,
}
# Broken so that the hook cannot even start.
HOOK_FAILS = {
    "syntax error in the hook": _bad_syntax,
    "'__init__' removed": _no_init,
    "package removed": _no_package,
}
BROKEN = {"no mergekit": _no_mergekit, **REGISTERING_FAILS, **HOOK_FAILS}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_python_starts_cleanly(environment: Environment, damage: Damage) -> None:
    """Python itself starts without a word, whatever is broken or gone."""
    damage(environment.site_packages)
    run = environment.run("-c", "print('started')")
    assert (run.returncode, run.stdout, run.stderr) == (0, "started\n", "")


@pytest.mark.parametrize(
    "damage", REGISTERING_FAILS.values(), ids=REGISTERING_FAILS.keys()
)
def test_failure_is_one_warning(environment: Environment, damage: Damage) -> None:
    """A failure to register is one warning with advice, and the built-ins stay."""
    damage(environment.site_packages)
    code = """
        import importlib, json, warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from mergekit.merge_methods import registry
            importlib.reload(registry)
            import mergekit_breadcrumbs
            mergekit_breadcrumbs._arm()
        print(json.dumps([[
            [m.name, type(m).__module__] for m in registry.registered_methods()
        ], [[w.category.__name__, str(w.message)] for w in caught]]))
        """
    methods, caught = environment.ask(code)
    assert methods == BUILT_IN
    [[category, message]] = caught
    assert category == "RuntimeWarning"
    assert "pip install --force-reinstall" in message
    assert "MERGEKIT_BREADCRUMBS=0" in message
    assert message.endswith("mergekit's built-in breadcrumbs stays in use.")


@pytest.mark.parametrize("damage", HOOK_FAILS.values(), ids=HOOK_FAILS)
def test_without_its_hook_mergekit_is_as_before(
    environment: Environment, damage: Damage
) -> None:
    """Where the hook cannot start, mergekit imports silently with its built-ins."""
    damage(environment.site_packages)
    assert environment.ask(SHOW) == BUILT_IN


@pytest.mark.parametrize(
    "damage", REGISTERING_FAILS.values(), ids=REGISTERING_FAILS.keys()
)
def test_required_failure_is_an_error_each_time(
    environment: Environment, damage: Damage
) -> None:
    """With `require` mergekit cannot be imported, not at a second attempt either."""
    damage(environment.site_packages)
    code = """
        import json
        said = []
        for attempt in range(2):
            try:
                import mergekit.merge_methods
            except RuntimeError as error:
                said.append(str(error))
        print(json.dumps(said))
        """
    said = environment.ask(code, MERGEKIT_BREADCRUMBS="require")
    assert len(said) == 2
    assert said[0] == said[1]
    assert "could not register" in said[0]


@pytest.mark.parametrize("damage", HOOK_FAILS.values(), ids=HOOK_FAILS)
def test_required_hook_that_fails_blocks_mergekit(
    environment: Environment, damage: Damage
) -> None:
    """With `require` and no hook left, Python says so once and mergekit is blocked."""
    damage(environment.site_packages)
    run = environment.run("-c", "print('started')", MERGEKIT_BREADCRUMBS="require")
    assert (run.returncode, run.stdout) == (0, "started\n")
    assert run.stderr.count("\n") == 1
    assert "Reinstall mergekit-breadcrumbs, or unset the variable." in run.stderr
    run = environment.run("-c", SHOW, MERGEKIT_BREADCRUMBS="require")
    assert run.returncode == 1
    assert "mergekit.merge_methods.registry" in run.stderr.splitlines()[-1]
