"""fastrnn: fused recurrent layers for PyTorch.

`FusedRNN`, `FusedLSTM` and `FusedGRU` are drop-in replacements for torch.nn's layers. `convert`
replaces the layers of an existing model. `functional` contains the functions that the layers call.
`export` writes ONNX files.
"""

import sys

from . import _lazy
from ._version import __version__

if _lazy.COMMAND:
    _lazy.provide(
        __name__,
        {
            "ConversionReport": "_convert",
            "FusedGRU": "layers",
            "FusedGRUCell": "layers",
            "FusedLSTM": "layers",
            "FusedLSTMCell": "layers",
            "FusedRNN": "layers",
            "FusedRNNCell": "layers",
            "ReadoutRNN": "layers",
            "backends": "ops.backends.dispatch",
            "conversion_report": "_convert",
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
    from ._convert import ConversionReport, conversion_report, convert, revert
    from ._explain import explain
    from .layers import (
        FusedGRU,
        FusedGRUCell,
        FusedLSTM,
        FusedLSTMCell,
        FusedRNN,
        FusedRNNCell,
        ReadoutRNN,
    )
    from .ops.backends.dispatch import backends, set_backend, use_backend

    def __getattr__(name: str) -> object:
        from ._deprecated import find  # `from . import` would call this function again

        return find(name)

    # `import fastrnn.FusedRNN` looks for a module of that name: return the class instead.
    for _layer in (FusedGRU, FusedLSTM, FusedRNN):
        sys.modules[f"{__name__}.{_layer.__name__}"] = _layer  # type: ignore[assignment]

__all__ = [
    "ConversionReport",
    "FusedGRU",
    "FusedGRUCell",
    "FusedLSTM",
    "FusedLSTMCell",
    "FusedRNN",
    "FusedRNNCell",
    "ReadoutRNN",
    "__version__",
    "backends",
    "conversion_report",
    "convert",
    "explain",
    "export",
    "functional",
    "revert",
    "set_backend",
    "use_backend",
]
