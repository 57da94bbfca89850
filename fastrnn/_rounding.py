"""Bounds on rounding errors, shared by the verification of exported files and the tests."""

from __future__ import annotations

import torch

#: Unit roundoff: the largest relative error of rounding to nearest in a dtype.
UNIT_ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}

#: Roundings of a step in addition to its sum: the activation or its derivative, and the product
#: with the derivative.
ACTIVATION_ROUNDINGS = 8

#: The errors of n roundings to nearest sum to at most this times √n units, except with probability
#: 1e-6: Higham and Mary, A new approach to probabilistic rounding error analysis, 2019.
CONFIDENCE = 6.0
