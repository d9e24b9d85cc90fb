"""Breadcrumb files: what is in one, reading it. Nothing here knows mergekit."""
