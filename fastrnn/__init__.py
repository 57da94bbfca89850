"""fastrnn: the vanilla recurrent network, as fast as the hardware allows.

`FusedRNN` is a drop-in for `torch.nn.RNN`, and `convert` puts it into a model that exists;
`functional` holds the functions it is made of, `export` writes ONNX.
"""

import sys

from . import export, functional
from ._version import __version__
from .cells import FusedRNNCell
from .convert import Conversion, convert, revert
from .explain import explain
from .layers import FusedRNN
from .ops.dispatch import backend, report
from .readout import ReadoutRNN

__all__ = [
    "Conversion",
    "FusedRNN",
    "FusedRNNCell",
    "ReadoutRNN",
    "__version__",
    "backend",
    "convert",
    "explain",
    "export",
    "functional",
    "report",
    "revert",
]

# `import fastrnn.FusedRNN` asks for a module of that name: give it the class itself.
sys.modules[__name__ + ".FusedRNN"] = FusedRNN  # type: ignore[assignment]
