"""Developer tools: compiler statistics, instruction counts, and the validation of the GPU kernels.

Run each from the root of the repository, as `python -m tools.NAME`.
"""
