"""What Python runs at every start: the source of the two files beside this one.

It must never keep Python from starting. Where the package is broken or half removed and
`MERGEKIT_BREADCRUMBS` is `require`, it makes importing mergekit fail instead. Without
that it says nothing, unless another module of the same name stands before the package
on `PYTHONPATH`: importing mergekit then warns.
"""

try:
    from mergekit_breadcrumbs import _arm

    _arm()
# What was imported may be somebody's script of that name, which ends itself.
except (Exception, SystemExit) as error:
    import os
    import sys
    import warnings
    from importlib.machinery import PathFinder

    registry = "mergekit.merge_methods.registry"
    switch = os.environ.get("MERGEKIT_BREADCRUMBS")
    spec = PathFinder.find_spec("mergekit_breadcrumbs")
    found = str(spec and spec.origin)
    folders = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    hidden = found.startswith(tuple(os.path.abspath(f) + os.sep for f in folders))
    advice = "Reinstall mergekit-breadcrumbs, or unset the variable."
    if hidden:
        remedy = "Rename that, or take its folder off PYTHONPATH."
        advice = " ".join(["Another module hides it:", found + ".", remedy])
    # A virtual environment runs this twice, and a message comes once.
    if switch == "require" and registry not in sys.modules:
        # None there makes importing it an ImportError.
        sys.modules[registry] = None  # type: ignore[assignment]
        print(
            "mergekit-breadcrumbs cannot be loaded, so importing mergekit will fail:"
            " MERGEKIT_BREADCRUMBS is require.",
            advice,
            "The error:",
            repr(error),
            file=sys.stderr,
        )
    elif hidden and not switch:

        class Hidden:
            """Finds nothing, but warns when mergekit's registry is looked for."""

            @staticmethod
            def find_spec(name: str, *place: object) -> None:
                if name == registry:
                    said = (
                        "mergekit-breadcrumbs cannot be loaded, so mergekit's built-in"
                        " breadcrumbs stays in use. "
                    )
                    warnings.warn(said + advice, RuntimeWarning, stacklevel=2)

        if repr(Hidden) not in map(repr, sys.meta_path):
            sys.meta_path.insert(0, Hidden)
