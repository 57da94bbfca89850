"""Benchmarks of fastrnn and the baselines: a pytest-benchmark suite and an interleaved runner."""
