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
            "backends": "ops.backends.dispatch",
            "convert": "_convert",
            "explain": "_explain",
            "export": "",
            "functional": "",
            "revert": "_convert",
            "set_backend": "ops.backends.dispatch",
            "use_backend": "ops.backends.dispatch",
        },
    )
else:
    from . import export, functional
    from ._convert import Conversion, convert, revert
    from ._explain import explain
    from .cells import FusedRNNCell
    from .layers import FusedRNN
    from .ops.backends.dispatch import backends, set_backend, use_backend
    from .readout import ReadoutRNN

    def __getattr__(name: str) -> object:
        from . import _deprecated

        return _deprecated.find(name)

    # `import fastrnn.FusedRNN` asks for a module of that name: give it the class itself.
    sys.modules[__name__ + ".FusedRNN"] = FusedRNN  # type: ignore[assignment]

__all__ = [
    "Conversion",
    "FusedRNN",
    "FusedRNNCell",
    "ReadoutRNN",
    "__version__",
    "backends",
    "convert",
    "explain",
    "export",
    "functional",
    "revert",
    "set_backend",
    "use_backend",
]
