"""What Python runs at every start: the source of the two files beside this one.

It must never keep Python from starting. Where the package is broken or half removed and
`MERGEKIT_BREADCRUMBS` is `require`, it makes importing mergekit fail instead.
"""

import os
import sys

try:
    from mergekit_breadcrumbs import _arm

    _arm()
except Exception as error:
    required = os.environ.get("MERGEKIT_BREADCRUMBS") == "require"
    # A virtual environment runs this twice: the message is printed once.
    if required and "mergekit.merge_methods.registry" not in sys.modules:
        # None there makes importing it an ImportError.
        sys.modules["mergekit.merge_methods.registry"] = None  # type: ignore[assignment]
        print(
            "mergekit-breadcrumbs cannot be loaded, so importing mergekit will fail:"
            " MERGEKIT_BREADCRUMBS is require. Reinstall mergekit-breadcrumbs, or unset"
            " the variable. The error:",
            repr(error),
            file=sys.stderr,
        )
