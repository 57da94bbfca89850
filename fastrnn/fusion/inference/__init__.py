"""Inference: forward passes over rows, and prediction of tables."""
