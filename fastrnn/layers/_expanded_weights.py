"""Per-sample gradients with torch's expanded weights, as in torch.nn.utils and Opacus's "ew" mode.

Expanded weights replace a module's parameters during a call. They support a fixed list of torch's
functions. It includes the loops of nn.RNN, nn.LSTM and nn.GRU and the linear product, but not our
operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.overrides import has_torch_function

from ..ops._torch_private import is_expanded_weight


def are_expanded(weights: Sequence[Any]) -> bool:
    """Whether any weight is an expanded weight. The check is cheap for ordinary tensors."""
    if not has_torch_function(weights):
        return False
    return any(is_expanded_weight(weight) for weight in weights)


def reject_beyond_torch(**given: bool) -> None:
    """Raise RuntimeError for features that torch's layer, which serves the call, lacks."""
    beyond = [name for name, is_given in given.items() if is_given]
    if beyond:
        raise RuntimeError(
            f"expanded weights do not support {' or '.join(beyond)}: compute per-sample gradients "
            "with torch.func.vmap(torch.func.grad(...)), which supports the whole layer"
        )
