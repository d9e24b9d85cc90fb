"""The parts of `benchmarks/claims.py`, one subject a module."""
