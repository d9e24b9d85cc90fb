"""Whose fault it was: mergekit's, another package's, or a bug of this one."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import mergekit.config
import pytest
import yaml
from mergekit.options import MergeOptions
from mergekit.parameter_resolver import resolve_parameter
from support.checked_configs import MODELS, MODULES, SLICES, make_models

import mergekit_breadcrumbs.check
from mergekit_breadcrumbs import wording
from mergekit_breadcrumbs.check.run import check_text
from mergekit_breadcrumbs.check.text import problem_lines, summary
from mergekit_breadcrumbs.host import method, parameters, planner
from mergekit_breadcrumbs.host.attempt import attempt

# Right ones, and ones with an error, beside which a bug used to go unnoticed.
TEXTS = [
    MODELS,
    SLICES,
    MODULES,
    MODELS.replace("gamma: 0.01", "gama: 0.01"),
    MODELS.replace("0.9", "2").replace("math", "base+./lora"),
    MODELS.replace("./math", "~nowhere").replace("code", "pickled"),
    MODELS.replace("  density: 0.9\n", "").replace("float16", "16"),
    MODELS.replace("0.9", "{filter: mpl, value: 0.9}").replace("0.01", "0.5"),
    MODELS.replace("weight: 0.5", "weight: [{filter: mlp}]"),
    MODELS.replace("code", "wide").replace("weight: 0.5", "weight: 0"),
    "models: {",
]


@pytest.fixture(scope="module", autouse=True)
def _beside_the_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(make_models(tmp_path_factory.mktemp("models")))
        yield


def _check(text: str) -> None:
    checked = check_text(text, MergeOptions())
    assert not checked.failed or list(
        problem_lines(checked, Path("config.yml"), excerpts=True)
    )
    assert summary(checked)


def _functions() -> dict[CodeType, FunctionType]:
    """Every function and method of the checks, and what mergekit calls back."""
    package = mergekit_breadcrumbs.check
    modules = [wording, method, parameters, planner] + [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for module in pkgutil.iter_modules(package.__path__)
    ]
    found: dict[CodeType, FunctionType] = {}
    for module in modules:
        for value in vars(module).values():
            for thing in (value, *(vars(value).values() if _is_class(value) else ())):
                function = thing.fget if isinstance(thing, property) else thing
                if inspect.isfunction(function) and _is_ours(function):
                    found[function.__code__] = function
    return found


def _is_class(value: Any) -> bool:
    return inspect.isclass(value) and value.__module__.startswith("mergekit_bread")


def _is_ours(function: FunctionType) -> bool:
    path = Path(function.__code__.co_filename)
    # One of the functions is what decides; the other is for use with `attempt`.
    return "mergekit_breadcrumbs" in path.parts and path.name != "attempt.py"


def _called() -> dict[str, tuple[FunctionType, str]]:
    """The functions that checking calls, each with the last text that calls it."""
    functions, called = _functions(), {}

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in functions:
            function = functions[frame.f_code]
            called[f"{function.__module__}.{function.__qualname__}"] = function, text

    for text in TEXTS:
        sys.setprofile(note)
        try:
            _check(text)
        finally:
            sys.setprofile(None)
    return called


def _raising(function: FunctionType, error: type[Exception]) -> CodeType:
    """Code that raises, and that can stand in the place of a function's own."""
    # Code can be replaced only by code with as many variables of an enclosing scope.
    names = function.__code__.co_freevars
    source = f"""
def outer({", ".join(names)}):
    def broken(*args, **kwargs):
        raise {error.__name__}("a bug of ours", {", ".join(names)})
    return broken
"""
    scope: dict[str, Any] = {}
    exec(compile(source, function.__code__.co_filename, "exec"), scope)
    broken: CodeType = scope["outer"](*names).__code__
    return broken


@pytest.mark.slow
def test_bugs_come_out_as_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever function of ours fails, and with what: never a problem of the config.

    But for a ValueError of a parameter's validator, which says that a value is refused.
    """
    called = _called()
    assert len(called) > 100
    swallowed = []
    for name, (function, text) in called.items():
        for error in (TypeError, RuntimeError, ValueError, LookupError):
            if error is ValueError and function.__module__ == parameters.__name__:
                continue
            with monkeypatch.context() as patch:
                patch.setattr(function, "__code__", _raising(function, error))
                try:
                    _check(text)
                except error as raised:
                    if "a bug of ours" in str(raised):
                        continue
                swallowed.append((name, error.__name__))
    assert swallowed == []


def test_what_mergekit_raises_is_returned() -> None:
    """An error of mergekit's own code is data; so is one of another package."""
    value, error = attempt(mergekit.config.MergeConfiguration.model_validate, {})
    assert value is None
    assert "merge_method" in str(error)
    _, error = attempt(yaml.safe_load, "[")
    assert isinstance(error, yaml.YAMLError)


def test_what_this_package_raises_in_mergekit_is_not() -> None:
    """A callback of ours that fails inside mergekit is a bug, and passes through."""

    class Settings(dict):
        def __contains__(self, name: object) -> bool:
            return _callback()

    def resolve() -> Any:
        return attempt(
            resolve_parameter,
            parameters.PARAMETERS["gamma"],
            [Settings()],
            tensor_name="x",
        )

    _, error = resolve()
    assert isinstance(error, ZeroDivisionError)
    ours = FunctionType(_callback.__code__, {"__name__": "mergekit_breadcrumbs.x"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "_callback", ours)
        with pytest.raises(ZeroDivisionError):
            resolve()


def _callback() -> bool:
    return bool(1 / 0)
