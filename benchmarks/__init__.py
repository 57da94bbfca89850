"""Measurements: `python -m benchmarks.ratios`, and suites for pytest-benchmark."""
