"""How the plugin is found by the real mergekit, in forks of one Python.

The parent loads what mergekit needs, which takes seconds; each case then starts as a
new process would, and imports mergekit itself.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.repository import run

pytestmark = pytest.mark.slow

PARENT = """
import importlib, json, os, pickle, sys, threading, traceback, warnings
import pydantic, torch, transformers

# As if no `.pth` file had been run.
def unhook():
    sys.meta_path[:] = [f for f in sys.meta_path if "mergekit" not in
                        type(f).__module__]
    for name in [n for n in sys.modules if n.startswith("mergekit_breadcrumbs")]:
        del sys.modules[name]

def together(*statements):
    def execute(statement):
        barrier.wait()
        try:
            exec(statement, {})
        except BaseException as error:
            errors.append(error)
    errors, barrier = [], threading.Barrier(len(statements))
    threads = [threading.Thread(target=execute, args=[s]) for s in statements]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]

def served():
    from mergekit.merge_methods import registry
    return [[m.spec.name, type(m).__module__] for m in registry.registered_methods()]

def fork(code):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            exec(code, globals())
            answer = served()
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as stream:
        answer = json.load(stream)
    os.waitpid(child, 0)
    return answer

assert not any(name.partition(".")[0] == "mergekit" for name in sys.modules)
warnings.simplefilter("ignore", DeprecationWarning)
pickled = bytes.fromhex(sys.argv[2])
print(json.dumps({name: fork(code) for name, code in json.loads(sys.argv[1]).items()}))
"""

UNPICKLING = """
first = pickle.loads(pickled)
from mergekit.merge_methods import registry
assert registry.get("breadcrumbs") == first
assert type(registry.get("breadcrumbs")) is type(first)
"""
THREADS = """
together(
    "import mergekit.merge_methods", "import mergekit_breadcrumbs",
    "from mergekit_breadcrumbs import BreadcrumbsMerge",
    "from mergekit.merge_methods import registry",
)
"""
LAZILY = """
from importlib.machinery import PathFinder
from importlib.util import LazyLoader
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "mergekit":
            spec = PathFinder.find_spec(name, path)
            spec.loader = LazyLoader(spec.loader)
            return spec
sys.meta_path.insert(0, Finder)
"""
ORDERS = {
    "mergekit": "import mergekit.merge_methods",
    "registry": "import mergekit.merge_methods.registry",
    "front door": "import mergekit.scripts.run_yaml",
    "plugin": "import mergekit_breadcrumbs",
    "method": "import mergekit_breadcrumbs.host.method",
    "public name": "from mergekit_breadcrumbs import BreadcrumbsMerge",
    "unpickling": UNPICKLING,
    "reload": """
from mergekit.merge_methods import registry
importlib.reload(registry)
""",
    "behind typeguard": """
import typeguard
typeguard.install_import_hook(["mergekit.merge_methods", "mergekit_breadcrumbs"])
""",
    "behind jaxtyping": """
import jaxtyping
jaxtyping.install_import_hook(["mergekit", "mergekit_breadcrumbs"], None)
""",
    "behind a lazy loader": LAZILY,
    "without hook, plugin": "unhook()\nimport mergekit_breadcrumbs",
    "without hook, mergekit": (
        "unhook()\nimport mergekit.merge_methods, mergekit_breadcrumbs"
    ),
    "without hook, method": "unhook()\nimport mergekit_breadcrumbs.host.method",
    "without hook, unpickling": "unhook()\n" + UNPICKLING,
    **{f"threads, {i}": THREADS for i in range(5)},
    **{f"without hook, threads, {i}": "unhook()\n" + THREADS for i in range(5)},
}
BUILT_IN = {
    "switched off": "os.environ['MERGEKIT_BREADCRUMBS'] = '0'",
    "without hook": "unhook()",
    "broken": """
sys.modules["mergekit_breadcrumbs.host.method"] = None
warnings.simplefilter("ignore", RuntimeWarning)
""",
}


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What is registered in each case, in order: names and the classes' modules."""
    code = """
import pickle
from mergekit.merge_methods import registry
print(pickle.dumps(registry.get("breadcrumbs")).hex())
"""
    cases = json.dumps({**ORDERS, **BUILT_IN})
    answers: dict[str, Any] = json.loads(_python(PARENT, cases, _python(code).strip()))
    return answers


def _python(code: str, *arguments: str) -> str:
    # Not in the root of the repository, or its sources would be imported from there.
    done = run(sys.executable, "-c", code, *arguments, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("case", ORDERS)
def test_replaced_once(answers: dict[str, Any], case: str) -> None:
    """As many methods as mergekit has, in its order, and two of them are ours."""
    ours = [
        [name, "mergekit_breadcrumbs" if name.startswith("breadcrumbs") else module]
        for name, module in answers["switched off"]
    ]
    assert sum(module == "mergekit_breadcrumbs" for _, module in ours) == 2
    assert answers[case] == ours


@pytest.mark.parametrize("case", BUILT_IN)
def test_built_in(answers: dict[str, Any], case: str) -> None:
    """Switched off, not armed or broken, every method is mergekit's own."""
    names = [name for name, _ in answers[case]]
    assert len(names) == len(set(names))
    assert {"breadcrumbs", "breadcrumbs_ties"} <= set(names)
    assert all(module.startswith("mergekit.") for _, module in answers[case])


def test_this_process_is_served() -> None:
    """The process that runs the tests imported mergekit alone, and has our methods."""
    from mergekit.merge_methods import registry

    from mergekit_breadcrumbs import BreadcrumbsMerge

    for name in ("breadcrumbs", "breadcrumbs_ties"):
        assert type(registry.get(name)) is BreadcrumbsMerge
