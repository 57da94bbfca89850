"""Synthetic tasks for fastrnn.fusion: `python -m examples.multimodal NAME`.

Each demo generates a task as PNG and WAV files, trains on them as on any others, and compares the
fusion with its baselines.
"""
