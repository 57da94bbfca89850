"""Which operators run a layer in eager mode."""

import pytest

from fastrnn.layers.base import FusedRNNBase
from fastrnn.ops import stack


def run_separate_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make layers run as in compiled code: not as one operator, and one autograd node."""
    monkeypatch.setattr(FusedRNNBase, "_run_plain", lambda *_: None)
    monkeypatch.setattr(stack, "are_plain", lambda *_: False)
