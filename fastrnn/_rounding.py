"""How much rounding may change a result: shared by the proof of an exported file and the tests."""

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
#: with it.
ACTIVATION_ROUNDINGS = 8

#: Errors of n roundings to nearest add up to at most this times √n units, except in one case in a
#: million: Higham and Mary, A new approach to probabilistic rounding error analysis, 2019.
CONFIDENCE = 6.0
