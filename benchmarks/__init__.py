"""Benchmarks against nn.RNN and other baselines: suites for pytest-benchmark, and their records."""
