"""Selecting and merging task vectors: torch, and nothing of mergekit."""
