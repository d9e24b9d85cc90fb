"""Model Breadcrumbs for mergekit: sparsify task vectors at both ends, then merge.

Importing this package makes `merge_method: breadcrumbs` and `breadcrumbs_ties` ours in
the running process, whoever imports mergekit and when.

mergekit has no plugin discovery, so Python itself imports this module at every start
(from the `.pth` and `.start` files at the root of site-packages). All that happens then
is that a finder is put on `sys.meta_path`, which waits for mergekit's registry. That is
why nothing is imported here that Python has not loaded anyway, annotations are quoted,
public names are resolved on first use, and the hook is not in a module of its own,
which would have to be found and read at every start as well.
"""

import os
import sys

TYPE_CHECKING = False  # `typing` is not loaded at start; type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from mergekit_breadcrumbs.core.merge import merge_task_vectors
    from mergekit_breadcrumbs.core.selection import survivor_mask
    from mergekit_breadcrumbs.host.method import BreadcrumbsMerge
    from mergekit_breadcrumbs.measure.report import Report
else:
    Loader = object

__all__ = ["BreadcrumbsMerge", "Report", "merge_task_vectors", "survivor_mask"]

_HOMES = {
    "BreadcrumbsMerge": "mergekit_breadcrumbs.host.method",
    "Report": "mergekit_breadcrumbs.measure.report",
    "merge_task_vectors": "mergekit_breadcrumbs.core.merge",
    "survivor_mask": "mergekit_breadcrumbs.core.selection",
}
_REGISTRY = "mergekit.merge_methods.registry"
_SWITCH = "MERGEKIT_BREADCRUMBS"
_warned = False


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("mergekit-breadcrumbs")
    if name in _HOMES:
        from importlib import import_module

        # The room before the module: importing `host` imports mergekit completely. Were
        # the lock of `host.method` held then, a thread that is importing mergekit would
        # wait for it in the hook, and the two for each other.
        import_module(_HOMES[name].rpartition(".")[0])
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})


def _arm() -> None:
    """Have both methods registered as soon as mergekit's registry exists.

    Calling it again changes nothing. If the registry is there already, the methods are
    registered at once.
    """
    _ask_ours_first()
    if _RegistryFinder not in map(type, sys.meta_path):
        sys.meta_path.insert(0, _RegistryFinder())
    # Wait where another thread is importing it: that one may have searched for the
    # registry before our finder was there. `importlib.import_module` would import it
    # again where that thread fails, and raise where the two wait for each other.
    for name in ("mergekit.merge_methods", _REGISTRY):
        if sys.modules.get(name) is not None:
            __import__(name)
    registry = sys.modules.get(_REGISTRY)
    spec = getattr(registry, "__spec__", None)
    # One that this very thread is still executing registers when it is done.
    if registry is not None and not getattr(spec, "_initializing", False):
        _replace_builtins(registry)


def _replace_builtins(registry: "ModuleType") -> None:
    """Register both methods, or leave the built-ins and say why.

    Raises:
        RuntimeError: if registering failed and `MERGEKIT_BREADCRUMBS` is `require`.
    """
    if os.environ.get(_SWITCH) == "0":
        return
    try:
        from mergekit_breadcrumbs.host.method import register

        register(registry)
    except Exception as error:
        _give_up(
            error,
            "Reinstall it beside a mergekit that it supports (pip install"
            " --force-reinstall --no-deps mergekit-breadcrumbs) and look at"
            " `mergekit-breadcrumbs status`",
        )


def _give_up(error: Exception, advice: str) -> None:
    """Say once that the built-ins stay in use, and why.

    Raises:
        RuntimeError: if `MERGEKIT_BREADCRUMBS` is `require`.
    """
    global _warned
    switch = os.environ.get(_SWITCH)
    if switch == "0":
        return
    message = (
        f"mergekit-breadcrumbs could not register its merge methods ({error!r})."
        f" {advice}, or set {_SWITCH}=0 to do without it."
    )
    if switch == "require":
        raise RuntimeError(message) from error
    if not _warned:
        import warnings

        _warned = True
        warnings.warn(
            f"{message} mergekit's built-in breadcrumbs stays in use.",
            RuntimeWarning,
            stacklevel=3,
        )


class _MetaPath(list):  # type: ignore[type-arg]
    """A `sys.meta_path` whose finders are asked in order, but those of our kind first.

    An import hook that is put in front of them later may find the registry itself, and
    so hide it. Nothing else would tell: an audit hook sees every import, but doubles
    the time of every `copy.deepcopy` in the process, and cannot be taken away.
    """

    def __iter__(self) -> "Iterator[Any]":
        # By name, so that copies in other plugins, or this one imported anew, count.
        kind = "_RegistryFinder"
        return iter(
            sorted(super().__iter__(), key=lambda finder: type(finder).__name__ != kind)
        )


def _ask_ours_first() -> None:
    if type(sys.meta_path) is list:
        sys.meta_path = _MetaPath(sys.meta_path)


class _RegistryFinder:
    """A meta path finder that sees to it that the registry gets a `_RegistryLoader`."""

    _searching = False  # one for all threads: importlib locks them out meanwhile

    def find_spec(
        self,
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        # Somebody may have put a list of their own in its place.
        _ask_ours_first()
        # Asking the other finders, rather than PathFinder, lets several such plugins
        # chain. Without the guard two of them would ask each other for ever.
        if fullname != _REGISTRY or self._searching:
            return None
        self._searching = True
        try:
            for finder in sys.meta_path:
                find_spec = getattr(finder, "find_spec", None)
                if find_spec is None:
                    continue
                spec: ModuleSpec | None = find_spec(fullname, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        self._wrap(spec, spec.loader)
                    return spec
        finally:
            self._searching = False
        return None

    def _wrap(self, spec: "ModuleSpec", loader: "Loader") -> None:
        try:
            # With one that only has `load_module`, importlib calls that, and ours not.
            if not hasattr(loader, "exec_module"):
                raise TypeError(f"{loader!r} has no exec_module")
            spec.loader = _RegistryLoader(loader)
        except Exception as error:
            _give_up(error, "Take away the import hook that brings this loader")


class _RegistryLoader(Loader):
    """Executes the registry with its own loader, then replaces the built-ins."""

    def __init__(self, loader: "Loader") -> None:
        self._loader = loader

    def exec_module(self, module: "ModuleType") -> None:
        # The module never gets to see that we were in between.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        listed = sys.modules.get(_REGISTRY) is module
        self._loader.exec_module(module)
        # A lazy loader executes a module when it is first asked for an attribute.
        getattr(module, "registered_methods", None)
        # A module may put another object in its own place.
        _replace_builtins(sys.modules.get(_REGISTRY, module) if listed else module)

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._loader, name)


_arm()
