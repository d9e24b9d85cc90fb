"""Searching for the parameters of a merge that a score likes best."""
