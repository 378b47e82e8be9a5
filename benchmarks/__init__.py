"""Measurements beside what they are compared with: `python -m benchmarks --help`."""
