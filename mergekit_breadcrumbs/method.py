"""The merge methods, for import.

mergekit has to be imported completely before `_method`, in this order and outside of
that module: two threads that import mergekit and this package at the same time would
otherwise wait for each other.
"""

import mergekit.merge_methods  # noqa: F401

from mergekit_breadcrumbs._method import METHODS, BreadcrumbsMerge

__all__ = ["METHODS", "BreadcrumbsMerge"]
