"""Benchmarks of resnetlab and of other packages: `python -m benchmarks --help`."""
