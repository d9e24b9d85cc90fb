"""The demo: train three experts from one base, merge them, and compare.

Nothing is downloaded. `mergekit_breadcrumbs.demo.run.run_demo` does it all.
"""
