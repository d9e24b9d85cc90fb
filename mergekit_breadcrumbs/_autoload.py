"""Put our methods into mergekit's registry, whoever imports mergekit and when.

mergekit has no plugin discovery, so Python itself calls `arm` when it starts (from the
`.pth` and `.start` files at the root of site-packages). All that happens then is that
a finder is put on `sys.meta_path`. It waits for `mergekit.merge_methods.registry` and
replaces two entries of it right after that module has run. This module is loaded by
every Python process of the environment, so at module level it imports only what Python
has loaded anyway; that is also why annotations are quoted, not imported lazily.
"""

import _thread
import os
import sys

TYPE_CHECKING = False  # `typing` is not loaded at start; type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any
else:
    Loader = object

PACKAGE = "mergekit.merge_methods"
REGISTRY = "mergekit.merge_methods.registry"
SWITCH = "MERGEKIT_BREADCRUMBS"

_warned = False


def arm() -> None:
    """Have both methods registered as soon as mergekit's registry exists.

    Calling it again changes nothing. If the registry is there already, the methods are
    registered at once.
    """
    if not any(type(finder) is RegistryFinder for finder in sys.meta_path):
        sys.meta_path.insert(0, RegistryFinder())
    # Wait where another thread is importing it: that one may have searched for the
    # registry before our finder was there. `importlib.import_module` would import it
    # again where that thread fails, and raise where the two wait for each other.
    for name in (PACKAGE, REGISTRY):
        if sys.modules.get(name) is not None:
            __import__(name)
    registry = sys.modules.get(REGISTRY)
    spec = getattr(registry, "__spec__", None)
    # One that this very thread is still executing registers when it is done.
    if registry is not None and not getattr(spec, "_initializing", False):
        replace_builtins(registry)


def replace_builtins(registry: "ModuleType") -> None:
    """Register both methods, or leave the built-ins and say why.

    Raises:
        RuntimeError: if registering failed and `MERGEKIT_BREADCRUMBS` is `require`.
    """
    global _warned
    switch = os.environ.get(SWITCH, "")
    if switch == "0":
        return
    try:
        from mergekit_breadcrumbs._method import register

        register(registry)
    except Exception as error:
        message = (
            f"mergekit-breadcrumbs could not register its merge methods ({error!r})."
            " Reinstall it beside a mergekit that it supports (pip install"
            " --force-reinstall --no-deps mergekit-breadcrumbs) and look at"
            f" `mergekit-breadcrumbs status`, or set {SWITCH}=0 to do without it."
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


class RegistryFinder:
    """A meta path finder that sees to it that the registry gets a `RegistryLoader`."""

    def __init__(self) -> None:
        self._searching: set[int] = set()

    def find_spec(
        self,
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        # Asking the other finders, rather than PathFinder, lets several such plugins
        # chain. Without the guard two of them would ask each other for ever.
        thread = _thread.get_ident()
        if fullname != REGISTRY or thread in self._searching:
            return None
        self._searching.add(thread)
        try:
            for finder in sys.meta_path:
                find_spec = getattr(finder, "find_spec", None)
                if find_spec is None:
                    continue
                spec: ModuleSpec | None = find_spec(fullname, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        spec.loader = RegistryLoader(spec.loader)
                    return spec
        finally:
            self._searching.discard(thread)
        return None


class RegistryLoader(Loader):
    """Executes the registry with its own loader, then replaces the built-ins."""

    def __init__(self, loader: "Loader") -> None:
        self._loader = loader

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        return self._loader.create_module(spec)

    def exec_module(self, module: "ModuleType") -> None:
        # The module never gets to see that we were in between.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        replace_builtins(module)

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._loader, name)
