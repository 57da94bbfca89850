"""Per-sample gradients by torch's expanded weights, as torch.nn.utils and Opacus's "ew" mode take.

They stand in for a module's parameters during a call, and know a fixed list of torch's functions:
nn.RNN's whole loop and the linear product are among them, our operators are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.overrides import has_torch_function

from .ops._torch_private import is_expanded_weight


def are_expanded(weights: Sequence[Any]) -> bool:
    """Whether any of the weights is an expanded one; an ordinary call asks in one short step."""
    if not has_torch_function(weights):
        return False
    return any(is_expanded_weight(weight) for weight in weights)


def refuse_beyond_torch(**given: bool) -> None:
    """Raise for what nn.RNN, which serves the call, does not have."""
    beyond = [name for name, is_given in given.items() if is_given]
    if beyond:
        raise RuntimeError(
            f"expanded weights know no {' or '.join(beyond)}: take per-sample gradients with "
            "torch.func.vmap(torch.func.grad(...)), which knows the whole layer"
        )
