"""The merge methods, in mergekit's own classes, and all use of mergekit's insides.

mergekit has to be imported completely before any module of this room. Otherwise
importing one of them first would import mergekit's registry in its midst, and the
start-up hook would then meet a module that is not there yet. Where other threads may be
importing mergekit, import this room before its modules, as the public names do.
"""

import mergekit.merge_methods  # noqa: F401
