"""The demo: train eight experts from one base, merge them, and compare."""
