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
    from collections.abc import Sequence
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
    global _warned
    switch = os.environ.get(_SWITCH, "")
    if switch == "0":
        return
    try:
        from mergekit_breadcrumbs.host.method import register

        register(registry)
    except Exception as error:
        message = (
            f"mergekit-breadcrumbs could not register its merge methods ({error!r})."
            " Reinstall it beside a mergekit that it supports (pip install"
            " --force-reinstall --no-deps mergekit-breadcrumbs) and look at"
            f" `mergekit-breadcrumbs status`, or set {_SWITCH}=0 to do without it."
        )
        if switch == "require":
            raise RuntimeError(message) from error
        if not _warned:
            import warnings

            _warned = True
            warnings.warn(
                f"{message} mergekit's built-in breadcrumbs stays in use.",
                RuntimeWarning,
                stacklevel=2,
            )


class _RegistryFinder:
    """A meta path finder that sees to it that the registry gets a `_RegistryLoader`."""

    _searching = False  # one for all threads: importlib locks them out meanwhile

    def find_spec(
        self,
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
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
                        spec.loader = _RegistryLoader(spec.loader)
                    return spec
        finally:
            self._searching = False
        return None


class _RegistryLoader(Loader):
    """Executes the registry with its own loader, then replaces the built-ins."""

    def __init__(self, loader: "Loader") -> None:
        self._loader = loader

    def exec_module(self, module: "ModuleType") -> None:
        # The module never gets to see that we were in between.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _replace_builtins(module)

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._loader, name)


_arm()
