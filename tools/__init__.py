"""Developer tools: compiler statistics, instruction counts, and the validation of the GPU kernels.

Run each as `python -m tools.NAME` in the root of the repository.
"""
