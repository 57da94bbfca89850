"""fastrnn: the vanilla recurrent network, as fast as the hardware allows.

`FusedRNN` is a drop-in for `torch.nn.RNN`, and `convert` puts it into a model that exists;
`functional` holds the functions it is made of, `export` writes ONNX.
"""

import sys

from . import _lazy
from ._version import __version__

if _lazy.COMMAND:
    _lazy.provide(
        __name__,
        {
            "Conversion": "_convert",
            "FusedRNN": "layers",
            "FusedRNNCell": "cells",
            "ReadoutRNN": "readout",
            "backend": "ops.dispatch",
            "convert": "_convert",
            "explain": "_explain",
            "export": "",
            "functional": "",
            "report": "ops.dispatch",
            "revert": "_convert",
        },
    )
else:
    from . import export, functional
    from ._convert import Conversion, convert, revert
    from ._explain import explain
    from .cells import FusedRNNCell
    from .layers import FusedRNN
    from .ops.dispatch import backend, report
    from .readout import ReadoutRNN

    # `import fastrnn.FusedRNN` asks for a module of that name: give it the class itself.
    sys.modules[__name__ + ".FusedRNN"] = FusedRNN  # type: ignore[assignment]

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
