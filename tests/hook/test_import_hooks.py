"""Import hooks beside ours: our methods are registered, or it is said."""

import sys
from pathlib import Path

import pytest
from support.environments import Environment

STAND_IN = "mergekit.merge_methods.base"
BUILT_IN = [STAND_IN] * 4
OURS = [STAND_IN, "mergekit_breadcrumbs", "mergekit_breadcrumbs", STAND_IN]
SHOW = """
import json
from mergekit.merge_methods import registry
print(json.dumps([[type(m).__module__ for m in registry.registered_methods()],
                  type(registry.__spec__.loader).__name__]))
"""
# `Finder(change)` finds mergekit's modules before all others and changes their specs.
FINDERS = """
import importlib.util, sys, types
import threading  # which LazyLoader cannot do itself, once that is lazy too
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

REGISTRY = "mergekit.merge_methods.registry"

class Finder:
    def __init__(self, change=lambda spec: spec, start="mergekit"):
        self.change, self.start = change, start
    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path)
        if spec is not None and name.startswith(self.start):
            return self.change(spec)

def with_loader(kind):
    def change(spec):
        if type(spec.loader) is SourceFileLoader:
            spec.loader = kind(spec.loader)
        return spec
    return change

lazily = with_loader(importlib.util.LazyLoader)

class Slots:
    __slots__ = ("loader",)
    def __init__(self, loader):
        self.loader = loader
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        self.loader.exec_module(module)

class Replacing(Slots):
    def exec_module(self, module):
        self.loader.exec_module(module)
        if module.__name__ == REGISTRY:
            sys.modules[REGISTRY] = types.SimpleNamespace(**vars(module))

class LoadModule:
    def __init__(self, loader):
        self.loader = loader
    def load_module(self, name):
        return self.loader.load_module(name)

class NoCreateModule:
    def __init__(self, loader):
        self.exec_module = loader.exec_module

class Fixed(ModuleSpec):
    @property
    def loader(self):
        return SourceFileLoader(self.name, self.origin)
    @loader.setter
    def loader(self, loader):
        if loader is not None:
            raise AttributeError("the loader is fixed")

def fixed(spec):
    return Fixed(REGISTRY, None, origin=spec.origin)

class Around:
    # Wraps what the other finders find, as tools that trace imports do.
    asking = False
    def find_spec(self, name, path=None, target=None):
        if self.asking or not name.startswith("mergekit."):
            return None
        self.asking = True
        try:
            return with_loader(Slots)(importlib.util.find_spec(name))
        finally:
            self.asking = False
"""
IN_FRONT = {
    "all of mergekit": ("Finder()", "SourceFileLoader"),
    "the registry": ("Finder(start=REGISTRY)", "SourceFileLoader"),
    "all modules, lazily": ("Finder(lazily, start='')", "SourceFileLoader"),
    "the registry, lazily": ("Finder(lazily, start=REGISTRY)", "SourceFileLoader"),
    "loader with slots": ("Finder(with_loader(Slots))", "Slots"),
    "module in its own place": ("Finder(with_loader(Replacing))", "Replacing"),
    "around the other finders": ("Around()", "Slots"),
}
PUT = {
    "insert": "sys.meta_path.insert(0, finder)",
    "slice": "sys.meta_path[:0] = [finder]",
    "all others anew": "sys.meta_path[:] = [finder, *sys.meta_path]",
    "another list": "sys.meta_path = [finder, *sys.meta_path]; import colorsys",
}
INSTALLED = {
    "typeguard": (
        "import typeguard; typeguard.install_import_hook(['mergekit'])",
        "TypeguardLoader",
    ),
    "typeguard, all modules": (
        "import typeguard; typeguard.install_import_hook()",
        "TypeguardLoader",
    ),
    "jaxtyping": (
        "import jaxtyping; jaxtyping.install_import_hook('mergekit', None)",
        "_JaxtypingLoader",
    ),
    "jaxtyping, ours too": (
        """
import jaxtyping
jaxtyping.install_import_hook(["mergekit", "mergekit_breadcrumbs"], None)
""",
        "_JaxtypingLoader",
    ),
}
REQUIRE = {"MERGEKIT_BREADCRUMBS": "require"}


@pytest.fixture(scope="module")
def environment(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the stand-in, the plugin, its hook, and the finders above."""
    environment = Environment(tmp_path_factory.mktemp("hooks") / "venv", python)
    environment.add_mergekit()
    environment.add_plugin()
    environment.write("finders.py", FINDERS)
    return environment


@pytest.fixture(scope="module")
def equipped(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The same, for the running Python, with what is installed beside it."""
    environment = Environment(tmp_path_factory.mktemp("equipped") / "venv")
    environment.add_mergekit()
    environment.add_plugin()
    environment.mirror()
    return environment


@pytest.mark.parametrize(("finder", "loader"), IN_FRONT.values(), ids=IN_FRONT)
def test_finder_in_front(environment: Environment, finder: str, loader: str) -> None:
    """Ours is registered, and the other hook's loader has done its work too."""
    code = f"from finders import *\nsys.meta_path.insert(0, {finder})\n{SHOW}"
    assert environment.ask(code, **REQUIRE) == [OURS, loader]


@pytest.mark.parametrize("put", PUT.values(), ids=PUT)
def test_put_in_front(environment: Environment, put: str) -> None:
    """However the other finder gets to the front, it is asked after ours."""
    code = f"from finders import *\nfinder = Finder()\n{put}\n{SHOW}"
    assert environment.ask(code, **REQUIRE)[0] == OURS


@pytest.mark.parametrize("when", ["aa_before.pth", "zz_after.pth", "sitecustomize.py"])
def test_put_in_front_at_start(environment: Environment, when: str) -> None:
    """What Python itself runs at start, before or after our hook, changes nothing."""
    file = environment.write(
        when, "import sys, finders; sys.meta_path.insert(0, finders.Finder())\n"
    )
    try:
        assert environment.ask(SHOW, **REQUIRE)[0] == OURS
    finally:
        file.unlink()


def test_reload_behind_a_finder(environment: Environment) -> None:
    """Reloading the registry keeps ours, with another finder in front."""
    code = f"""
from finders import *
sys.meta_path.insert(0, Finder())
from mergekit.merge_methods import registry
importlib.reload(registry)
{SHOW}"""
    assert environment.ask(code, **REQUIRE)[0] == OURS


def test_switched_off_behind_a_finder(environment: Environment) -> None:
    """Switched off, the built-ins stay, and a loader of any kind is used in silence."""
    for finder in ("Finder()", "Finder(with_loader(LoadModule))"):
        code = f"from finders import *\nsys.meta_path.insert(0, {finder})\n{SHOW}"
        assert environment.ask(code, MERGEKIT_BREADCRUMBS="0")[0] == BUILT_IN


CANNOT_FOLLOW = {
    "load_module alone": ("with_loader(LoadModule)", "LoadModule object at"),
    "spec that is fixed": ("fixed", "the loader is fixed"),
}


@pytest.mark.parametrize(("change", "why"), CANNOT_FOLLOW.values(), ids=CANNOT_FOLLOW)
def test_loader_that_is_left_alone(
    environment: Environment, change: str, why: str
) -> None:
    """A loader that ours cannot stand before: one warning; an error if required."""
    code = f"""
import json, warnings
from finders import *
sys.meta_path.insert(0, Finder({change}, start=REGISTRY))
warnings.simplefilter("always", RuntimeWarning)
with warnings.catch_warnings(record=True) as caught:
    from mergekit.merge_methods import registry
print(json.dumps([[type(m).__module__ for m in registry.registered_methods()],
                  [str(w.message) for w in caught if w.category is RuntimeWarning]]))
"""
    kinds, [message] = environment.ask(code)
    assert kinds == BUILT_IN
    assert "could not register" in message
    assert why in message
    assert "Take away the import hook" in message
    assert message.endswith("mergekit's built-in breadcrumbs stays in use.")
    run = environment.run("-c", code, **REQUIRE)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("RuntimeError: mergekit-breadcrumbs")
    assert why in run.stderr.splitlines()[-1]


def test_loader_that_python_refuses(environment: Environment) -> None:
    """A loader that cannot work without us either gives Python's own error."""
    code = f"""
from finders import *
sys.meta_path.insert(0, Finder(with_loader(NoCreateModule), start=REGISTRY))
{SHOW}"""
    run = environment.run("-c", code)
    assert run.stderr.splitlines()[-1].endswith("must also define create_module()")


@pytest.mark.parametrize(("install", "loader"), INSTALLED.values(), ids=INSTALLED)
def test_installed_hooks(equipped: Environment, install: str, loader: str) -> None:
    """Ours is registered under typeguard and jaxtyping, which still instrument."""
    assert equipped.ask(f"{install}\n{SHOW}", **REQUIRE) == [OURS, loader]


@pytest.mark.parametrize("rewritten", ["mergekit", "mergekit_breadcrumbs"])
def test_pytest_rewrites_assertions(equipped: Environment, rewritten: str) -> None:
    """Ours is registered in a test run that rewrites the assertions of mergekit."""
    folder = equipped.root / rewritten
    folder.mkdir()
    text = f"import pytest\npytest.register_assert_rewrite({rewritten!r})\n"
    (folder / "conftest.py").write_text(text)
    (folder / "test_served.py").write_text(f"""
from mergekit.merge_methods import registry
def test_served():
    kinds = [type(m).__module__ for m in registry.registered_methods()]
    assert kinds == {OURS}
    rewriting = type(registry.__loader__).__name__ == "AssertionRewritingHook"
    assert rewriting == ({rewritten!r} == "mergekit")
""")
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder))
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    run = equipped.run(*command, **alone, **REQUIRE)
    assert run.returncode == 0, run.stdout


def test_ours_is_found_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked in turn, the finders keep their order, but for ours, which comes first."""
    import mergekit_breadcrumbs as hook

    before, ours = object(), hook._RegistryFinder()
    monkeypatch.setattr(sys, "meta_path", [before, *sys.meta_path, ours])
    hook._ask_ours_first()
    assert [type(f) for f in sys.meta_path][:2] == [hook._RegistryFinder] * 2
    others = [f for f in sys.meta_path if type(f) is not hook._RegistryFinder]
    in_place = list.__iter__(sys.meta_path)
    assert others == [f for f in in_place if type(f) is not hook._RegistryFinder]
    assert sys.meta_path[0] is before
