"""Evaluation: scores with intervals, and robustness."""
