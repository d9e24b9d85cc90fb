"""The demo: train three experts from one base, merge them, and compare."""
