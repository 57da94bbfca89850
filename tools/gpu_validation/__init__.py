"""Validation of the GPU kernels: `make gpu-check`, or `python -m tools.gpu_validation`."""
