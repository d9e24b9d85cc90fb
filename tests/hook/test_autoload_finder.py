"""The parts of the start-up hook, one by one, in this process."""

import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import mergekit_breadcrumbs as hook
from mergekit_breadcrumbs import _REGISTRY, _RegistryFinder

PACKAGE = "mergekit.merge_methods"
TABLE = {"breadcrumbs": "built-in", "breadcrumbs_ties": "built-in"}
REPLACED = {"breadcrumbs": "ours", "breadcrumbs_ties": "ours"}


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has neither mergekit nor an armed finder."""
    finders = [f for f in sys.meta_path if type(f) is not _RegistryFinder]
    assert len(finders) == len(sys.meta_path) - 1
    monkeypatch.setattr(sys, "meta_path", finders)
    for name in (PACKAGE, _REGISTRY):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(hook, "_warned", False)
    monkeypatch.delenv(hook._SWITCH, raising=False)
    room: Any = ModuleType("mergekit_breadcrumbs.host")
    room.__path__ = []
    monkeypatch.setitem(sys.modules, room.__name__, room)
    method: Any = ModuleType("mergekit_breadcrumbs.host.method")
    method.register = lambda registry: registry._METHODS.update(REPLACED)
    monkeypatch.setitem(sys.modules, method.__name__, method)


def _registry(**spec: Any) -> Any:
    registry: Any = ModuleType(_REGISTRY)
    registry._METHODS = dict(TABLE)
    registry.__spec__ = ModuleSpec(_REGISTRY, loader=None)
    vars(registry.__spec__).update(spec)
    return registry


class _Finder:
    """Finds the registry in a file; `searches` counts how often it was asked."""

    def __init__(self, path: Path) -> None:
        path.write_text(f"_METHODS = {TABLE}\n")
        self.loader: Any = SourceFileLoader(_REGISTRY, str(path))
        self.searches = 0

    def find_spec(self, fullname: str, *rest: object) -> ModuleSpec | None:
        self.searches += 1
        return ModuleSpec(fullname, self.loader)


@pytest.fixture
def finder(tmp_path: Path) -> _Finder:
    """Armed: our finder, with a legacy finder and one for the registry behind it."""
    finder: Any = _Finder(tmp_path / "registry.py")
    legacy: Any = SimpleNamespace(find_module=lambda *arguments: 1 / 0)
    sys.meta_path[:0] = [legacy, finder]
    hook._arm()
    return finder


def test_arming_again_changes_nothing() -> None:
    """However often it is armed, there is one finder, in front."""
    for _ in range(3):
        hook._arm()
    assert [type(f) for f in sys.meta_path].count(_RegistryFinder) == 1
    assert type(sys.meta_path[0]) is _RegistryFinder


@pytest.mark.parametrize(
    ("spec", "table"),
    [
        pytest.param({}, REPLACED, id="there already"),
        pytest.param({"_initializing": True}, TABLE, id="being executed here"),
    ],
)
def test_arming_beside_a_registry(
    monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], table: dict[str, str]
) -> None:
    """A finished registry is changed at once, an unfinished one left to the loader."""
    registry = _registry(**spec)
    monkeypatch.setitem(sys.modules, PACKAGE, ModuleType(PACKAGE))
    monkeypatch.setitem(sys.modules, _REGISTRY, registry)
    hook._arm()
    assert table == registry._METHODS


def test_arming_before_a_blocked_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that must not be imported (None in `sys.modules`) stays so."""
    monkeypatch.setitem(sys.modules, _REGISTRY, None)  # type: ignore[arg-type]
    hook._arm()
    assert sys.modules[_REGISTRY] is None


def test_finder_wraps_the_registry_alone(finder: _Finder) -> None:
    """The registry gets our loader, and no other module is even looked for."""
    ours: Any = sys.meta_path[0]
    assert ours.find_spec("mergekit.merge_methods.base") is None
    assert finder.searches == 0
    spec = ours.find_spec(_REGISTRY)
    assert type(spec.loader) is hook._RegistryLoader
    module: Any = ModuleType(_REGISTRY)
    module.__spec__ = spec
    assert spec.loader.create_module(spec) is None
    spec.loader.exec_module(module)
    assert module._METHODS == REPLACED
    assert module.__loader__ is spec.loader is finder.loader


def test_loader_runs_a_module_without_spec(finder: _Finder) -> None:
    """A module that was made by hand is executed and changed all the same."""
    ours: Any = sys.meta_path[0]
    module: Any = ModuleType(_REGISTRY)
    ours.find_spec(_REGISTRY).loader.exec_module(module)
    assert module._METHODS == REPLACED
    assert module.__spec__ is None


def test_loader_passes_everything_else_on(finder: _Finder) -> None:
    """Between search and execution our loader answers what the true one would."""
    loader = sys.meta_path[0].find_spec(_REGISTRY, None).loader  # type: ignore
    assert "_METHODS" in loader.get_source(_REGISTRY)
    assert loader.path == finder.loader.path
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = loader.nonsense


def test_spec_without_loader_is_left_alone(finder: _Finder) -> None:
    """A namespace package has no loader, and nothing to register in."""
    finder.loader = None
    spec: Any = sys.meta_path[0].find_spec(_REGISTRY, None)
    assert spec.loader is None


def test_registry_that_nobody_finds(finder: _Finder) -> None:
    """Where no finder knows the registry, ours does not know it either."""
    sys.meta_path.remove(finder)  # type: ignore[arg-type]
    assert sys.meta_path[0].find_spec(_REGISTRY, []) is None


def test_finder_recovers_from_an_error(finder: _Finder) -> None:
    """An error of another finder comes through, and the next search works."""

    class Broken:
        def find_spec(self, *arguments: object) -> None:
            raise OSError("disk on fire")

    ours = sys.meta_path[0]
    broken: Any = Broken()
    sys.meta_path.insert(1, broken)
    with pytest.raises(OSError, match="disk on fire"):
        ours.find_spec(_REGISTRY, None)
    sys.meta_path.remove(broken)
    assert ours.find_spec(_REGISTRY, None) is not None


def test_two_finders_do_not_ask_each_other_for_ever(finder: _Finder) -> None:
    """Two finders of this kind chain: both wrap, and the true one is asked once."""
    second: Any = _RegistryFinder()
    sys.meta_path.insert(0, second)
    spec = second.find_spec(_REGISTRY)
    assert finder.searches == 1
    assert spec.loader._loader._loader is finder.loader


@pytest.mark.parametrize(
    ("switch", "table"), [("", REPLACED), ("require", REPLACED), ("0", TABLE)]
)
def test_switch(
    monkeypatch: pytest.MonkeyPatch, switch: str, table: dict[str, str]
) -> None:
    """`MERGEKIT_BREADCRUMBS` is read when the registry is there, not before."""
    registry = _registry()
    monkeypatch.setenv(hook._SWITCH, switch)
    hook._replace_builtins(registry)
    assert table == registry._METHODS


def test_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure warns once in a process, and raises each time where required."""
    registry: Any = ModuleType(_REGISTRY)
    with pytest.warns(RuntimeWarning, match="no attribute '_METHODS'"):
        hook._replace_builtins(registry)
    hook._replace_builtins(registry)  # a second warning would be an error here
    monkeypatch.setenv(hook._SWITCH, "require")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="could not register") as error:
            hook._replace_builtins(registry)
        assert isinstance(error.value.__cause__, AttributeError)
