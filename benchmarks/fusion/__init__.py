"""Benchmarks of `fastrnn.fusion`: memory, start-up and speed of training on tables of files."""
