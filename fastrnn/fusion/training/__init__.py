"""Training: the loop, the runs and their checkpoints."""
