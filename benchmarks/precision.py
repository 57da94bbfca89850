"""The precision of a measurement: a dtype, and the precision of float32 products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class Mode(NamedTuple):
    """An entry of `MODES`."""

    dtype: torch.dtype
    products: str | None  #: one of fastrnn.ops.backends.triton.table.MODES; None: no tensor cores
    fp32_precision: str = "ieee"  #: as in torch.backends.cudnn.rnn


MODES = {
    "float32": Mode(torch.float32, "float32"),
    "tf32": Mode(torch.float32, "tf32", "tf32"),
    "bfloat16": Mode(torch.bfloat16, "half"),
    "float16": Mode(torch.float16, "half"),
}

#: Only the CUDA backend supports it, and only in `step`.
FLOAT64 = {"float64": Mode(torch.float64, None)}


@contextmanager
def precision(mode: str) -> Iterator[Mode]:
    """Set the precision of float32 in cuDNN's recurrences and in matrix products."""
    before = torch.backends.cudnn.rnn.fp32_precision == "tf32", torch.get_float32_matmul_precision()
    entry = {**MODES, **FLOAT64}[mode]
    tf32 = entry.fp32_precision == "tf32"
    try:
        _set(tf32, "high" if tf32 else "highest")
        yield entry
    finally:
        _set(*before)


def _set(tf32: bool, matmul: str) -> None:
    """Set torch's older flags and the newer one: torch raises if only one of them is set.

    `set_flags` is used because torch.testing's own tests freeze the attribute `allow_tf32` when
    they are imported, which opcheck does.
    """
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.set_flags(_allow_tf32=tf32, _fp32_precision=None)
    torch.backends.cudnn.rnn.fp32_precision = "tf32" if tf32 else "ieee"
