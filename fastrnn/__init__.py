"""fastrnn: the vanilla recurrent network, as fast as the hardware allows.

`FusedRNN` is a drop-in for `torch.nn.RNN`; `functional` holds the functions it is made of.
"""

import sys

from . import functional
from ._version import __version__
from .convert import Conversion, convert, revert
from .explain import explain
from .layers import FusedRNN, FusedRNNCell, ReadoutRNN
from .ops.dispatch import backend, report

__all__ = [
    "Conversion",
    "FusedRNN",
    "FusedRNNCell",
    "ReadoutRNN",
    "__version__",
    "backend",
    "convert",
    "explain",
    "functional",
    "report",
    "revert",
]

# `import fastrnn.FusedRNN` asks for a module of that name: give it the class itself.
sys.modules[__name__ + ".FusedRNN"] = FusedRNN  # type: ignore[assignment]
