"""Threads that import mergekit and the plugin at the same time."""

from pathlib import Path

import pytest
from support.environments import Environment

# `together` runs statements in threads that start together and returns their errors;
# `pauses` sleeps at the head of the stand-in's modules.
START = """
import faulthandler, importlib, json, os, pickle, random, sys, threading
import traceback
import pauses

def is_missed_for_an_instant(error):
    # Python takes a package out of `sys.modules` for an instant when it has run it
    # (`importlib._bootstrap._load_unlocked`), and another thread that imports one of
    # its submodules can meet that.
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    package = str(error.args[0]).partition(".")[0]
    return (raised_in == "<frozen importlib._bootstrap>"
            and package in ("mergekit", "mergekit_breadcrumbs"))

def together(*statements):
    def execute(statement):
        barrier.wait()
        try:
            try:
                exec(statement, {})
            except KeyError as error:
                if not is_missed_for_an_instant(error):
                    raise
                exec(statement, {})
        except BaseException as error:
            errors.append(f"{statement}: {error!r}")

    errors, barrier = [], threading.Barrier(len(statements))
    threads = [threading.Thread(target=execute, args=[s], daemon=True)
               for s in statements]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        if thread.is_alive():
            faulthandler.dump_traceback()
            os._exit(1)
    return errors

def served():
    from mergekit.merge_methods import registry
    return [type(m).__module__ for m in registry.registered_methods()]

"""
STAND_IN = "mergekit.merge_methods.base"
OURS = [STAND_IN, "mergekit_breadcrumbs", "mergekit_breadcrumbs", STAND_IN]


@pytest.fixture(scope="module")
def environment(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the stand-in, the plugin and its hook."""
    environment = Environment(tmp_path_factory.mktemp("threads") / "venv", python)
    environment.add_mergekit()
    environment.add_plugin()
    return environment


HOOK = pytest.mark.parametrize("hook", [True, False], ids=["hook", "no hook"])


def _ask(environment: Environment, code: str, hook: bool) -> object:
    if hook:
        return environment.ask(START + code)
    return environment.ask(
        START + code, "-S", PYTHONPATH=str(environment.site_packages)
    )


@HOOK
@pytest.mark.parametrize(
    "plugin",
    [
        "import mergekit_breadcrumbs",
        "from mergekit_breadcrumbs import BreadcrumbsMerge",
    ],
    ids=["package", "public name"],
)
@pytest.mark.parametrize(
    "slow",
    [
        "mergekit",
        "mergekit.merge_methods",
        "mergekit.merge_methods.base",
        "mergekit.merge_methods.registry",
        "end of registry",
        "mergekit_breadcrumbs.host.method",
    ],
)
def test_slow_import(
    environment: Environment, slow: str, plugin: str, hook: bool
) -> None:
    """The plugin is imported while another thread is held up inside mergekit."""
    code = f"""
pauses.SECONDS["{slow}"] = 0.1
print(json.dumps(together(
    "import mergekit.merge_methods", "import time; time.sleep(0.05); {plugin}"
) + served()))
"""
    assert _ask(environment, code, hook) == OURS


@pytest.mark.slow
@HOOK
def test_many_random_imports(environment: Environment, hook: bool) -> None:
    """Hundreds of rounds of six threads, each module held up for a random moment."""
    code = f"""
def forget():
    for name in [n for n in sys.modules if n.startswith("mergekit")]:
        del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if "mergekit" not in
                        type(f).__module__]

import mergekit_breadcrumbs
from mergekit.merge_methods import registry
pickled = pickle.dumps(registry.get("breadcrumbs"))
statements = [
    "import mergekit",
    "import mergekit.merge_methods",
    "from mergekit.merge_methods import registry",
    "import mergekit_breadcrumbs",
    "from mergekit_breadcrumbs import BreadcrumbsMerge",
    f"import pickle; pickle.loads({{pickled!r}})",
]
places = ["mergekit", "mergekit.merge_methods", "mergekit.merge_methods.base",
          "mergekit.merge_methods.registry", "end of registry",
          "mergekit_breadcrumbs.host.method"]
sys.setswitchinterval(1e-5)
dice, wrong = random.Random(0), []
for round in range(200):
    forget()
    pauses.SECONDS = {{place: dice.choice([0, 0, 0.001, 0.003]) for place in places}}
    if {hook}:
        import mergekit_breadcrumbs
    found = together(*dice.sample(statements, 5), "import mergekit_breadcrumbs")
    found += served()
    if found != {OURS}:
        wrong.append([round, found])
print(json.dumps(wrong))
"""
    assert _ask(environment, code, hook) == []


def test_plugin_comes_after_the_search(environment: Environment) -> None:
    """Without the hook: armed when the other thread has just found the registry.

    That search did not meet our finder and the registry is not in `sys.modules` yet, so
    only waiting for the package that is being imported can help.
    """
    code = """
from importlib.machinery import PathFinder, SourceFileLoader

class Slow(SourceFileLoader):
    def find_spec(name, path=None, target=None):
        if name == "mergekit.merge_methods.registry":
            spec = PathFinder.find_spec(name, path)
            spec.loader.__class__ = Slow
            return spec

    def create_module(self, spec):
        found.set()
        armed.wait(0.3)

import builtins
builtins.found, builtins.armed = found, armed = threading.Event(), threading.Event()
sys.meta_path.insert(0, Slow)
print(json.dumps(together(
    "import mergekit.merge_methods",
    "found.wait(); import mergekit_breadcrumbs; armed.set()",
) + served()))
"""
    assert _ask(environment, code, hook=False) == OURS


def test_plugin_waits_for_an_import_that_fails(environment: Environment) -> None:
    """Without the hook: an error of mergekit stays with the thread that imports it."""
    code = """
def here(name):
    if name == "end of registry":
        executing.set()
        waiting.wait(0.3)
        1 / 0

import builtins
builtins.executing = executing = threading.Event()
builtins.waiting = waiting = threading.Event()
pauses.here, patient = here, pauses.here
errors = together(
    "import mergekit.merge_methods",
    "executing.wait(); import mergekit_breadcrumbs; waiting.set()",
)
pauses.here = patient
print(json.dumps([errors, served()]))
"""
    failed = "import mergekit.merge_methods: ZeroDivisionError('division by zero')"
    assert _ask(environment, code, hook=False) == [[failed], OURS]


@pytest.mark.parametrize(
    ("raised_in", "errors"),
    [
        ("<frozen importlib._bootstrap>", []),
        ("mergekit/__init__.py", ["import mergekit: KeyError('mergekit')"]),
    ],
    ids=["importlib", "a module"],
)
def test_only_importlib_is_tried_again(
    environment: Environment, raised_in: str, errors: list[str]
) -> None:
    """What importlib itself missed is tried again; any other error is reported."""
    code = f"""
def here(name):
    pauses.here = patient
    exec(compile("raise KeyError('mergekit')", {raised_in!r}, "exec"))

pauses.here, patient = here, pauses.here
print(json.dumps(together("import mergekit")))
"""
    assert _ask(environment, code, hook=True) == errors
