"""How a GPU is to compute: a dtype, and what may be done to its products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class Mode(NamedTuple):
    """One of `MODES`."""

    dtype: torch.dtype
    products: str | None  #: one of fastrnn.ops.backends.triton.table.MODES; None: by no matrix unit
    fp32_precision: str = "ieee"  #: as in torch.backends.cudnn.rnn


MODES = {
    "float32": Mode(torch.float32, "float32"),
    "tf32": Mode(torch.float32, "tf32", "tf32"),
    "bfloat16": Mode(torch.bfloat16, "half"),
    "float16": Mode(torch.float16, "half"),
}

#: The CUDA backend's alone, and only step's there.
FLOAT64 = {"float64": Mode(torch.float64, None)}


@contextmanager
def precision(mode: str) -> Iterator[Mode]:
    """Compute float32 as the mode says, in recurrences and in the products around them."""
    before = torch.backends.cudnn.rnn.fp32_precision == "tf32", torch.get_float32_matmul_precision()
    how = {**MODES, **FLOAT64}[mode]
    tf32 = how.fp32_precision == "tf32"
    try:
        _set(tf32, "high" if tf32 else "highest")
        yield how
    finally:
        _set(*before)


def _set(tf32: bool, matmul: str) -> None:
    """By torch's older switches and by the newer one: it raises where only one of them was set.

    By ``set_flags``, since the attribute ``allow_tf32`` is frozen once torch.testing's own tests
    have been imported, as opcheck does.
    """
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.set_flags(_allow_tf32=tf32, _fp32_precision=None)
    torch.backends.cudnn.rnn.fp32_precision = "tf32" if tf32 else "ieee"
