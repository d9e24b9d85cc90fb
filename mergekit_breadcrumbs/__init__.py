"""Model Breadcrumbs for mergekit: sparsify task vectors at both ends, then merge.

Importing this package makes `merge_method: breadcrumbs` and `breadcrumbs_ties` ours in
the running process. Nothing heavy is imported until a public name is first used,
because this module runs at every start of Python (see `_autoload`).
"""

from mergekit_breadcrumbs import _autoload

TYPE_CHECKING = False  # `typing` is not loaded at start; type checkers know this name
if TYPE_CHECKING:
    from mergekit_breadcrumbs.merge import merge_task_vectors
    from mergekit_breadcrumbs.method import BreadcrumbsMerge
    from mergekit_breadcrumbs.selection import survivor_mask

__all__ = ["BreadcrumbsMerge", "merge_task_vectors", "survivor_mask"]

_HOMES = {
    "BreadcrumbsMerge": "mergekit_breadcrumbs.method",
    "merge_task_vectors": "mergekit_breadcrumbs.merge",
    "survivor_mask": "mergekit_breadcrumbs.selection",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("mergekit-breadcrumbs")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})


_autoload.arm()
