"""The GPU kernels of all backends: selecting one, and checking whether it supports a call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrnn.ops.backends import cpu, cuda, dispatch, triton
from fastrnn.ops.backends.base import Call, Kernels, precision_of
from fastrnn.ops.backends.triton.table import CELL_KERNELS, TABLE
from fastrnn.ops.cells import CODES

#: The argument of a backend's functions that selects a kernel.
OPTION = {"triton": "kernel", "cuda": "strategy"}


class Kernel(NamedTuple):
    """A kernel of the Triton backend, or a strategy of the CUDA backend."""

    backend: str
    name: str
    kind: str = "RNN"  #: the cell, as that of a `Problem`

    def __str__(self) -> str:
        name = f"{self.backend}.{self.name}"
        return name if self.kind == "RNN" else f"{name}.{self.kind}"

    @property
    def mode(self) -> str:
        """The mode of its cell, or of one of its cells with different activations."""
        return self.kind if self.kind in CODES else f"{self.kind}_TANH"

    @property
    def implementation(self) -> Kernels:
        """The backend of the kernel."""
        kernels = dispatch.BACKENDS[self.backend]
        assert isinstance(kernels, Kernels)
        return kernels

    @property
    def options(self) -> dict[str, str]:
        """The arguments of the backend's methods beyond those of the operator."""
        return {OPTION[self.backend]: self.name}

    def unsupported_reason(self, state: Tensor, steps: int, direction: str) -> str | None:
        """Why it cannot serve a call with a state [B, G, H], or None."""
        call = call_of(state, steps, self.mode)
        backend = self.implementation
        reason = backend.unavailable_reason() or backend.unsupported_reason(call)
        if reason is not None:
            return reason
        if self.backend == "cuda":
            plan = plans(state, steps, direction, self.mode)[1][self.name]
            return plan if isinstance(plan, str) else None
        sizes = triton.sizes_of(call)
        # `rows` serves every mode. The table has it for strict float32, as no other is fast there.
        served = any(
            row.kernel == self.name
            and row.hidden >= sizes.hidden
            and row.shared <= sizes.shared
            and row.wgmma <= sizes.wgmma
            and sizes.gates in row.gates
            and (self.name == "rows" or sizes.mode in row.modes)
            for row in TABLE
        )
        return None if served else f"no row of the table has it for H = {sizes.hidden}"


TRITON = tuple(
    Kernel("triton", name) for name in ("rows", "single_cta", "single_cta_gluon", "grid")
)
CUDA = tuple(Kernel("cuda", name) for name in cuda.STRATEGIES)
KERNELS = TRITON + CUDA
#: The same kernels and strategies with the cells that save gates.
CELL_KINDS = ("LSTM", "GRU", "LEAKY", "LEAKY_PRE")
TRITON_CELLS = tuple(
    Kernel("triton", name, kind) for kind in CELL_KINDS for name in sorted(CELL_KERNELS)
)
CUDA_CELLS = tuple(Kernel("cuda", name, kind) for kind in CELL_KINDS for name in cuda.STRATEGIES)
BACKENDS = tuple(OPTION)


def call_of(state: Tensor, steps: int, mode: str = "RNN_TANH") -> Call:
    """A call with a state [B, G, H]."""
    return Call(mode, steps, *state.shape, state.dtype, state.device)


def plans(
    state: Tensor, steps: int, direction: str, cell: str = "RNN_TANH"
) -> tuple[str, dict[str, Any]]:
    """The strategy that the CUDA backend chooses; each strategy's plan, or why it has none."""
    mode = precision_of(state.dtype)
    index = torch.cuda.current_device() if state.device.index is None else state.device.index
    backward = direction == "backward"
    sizes = backward, steps, *state.shape, CODES[cell]
    return cpu.EXTENSION.module.plans(cuda.device(index), mode, *sizes)


def chosen(backend: str, state: Tensor, steps: int, direction: str) -> Kernel:
    """The kernel that the backend chooses for a call with a state [B, G, H]."""
    if backend == "cuda":
        return Kernel(backend, plans(state, steps, direction)[0])
    return Kernel(backend, triton.choose(triton.sizes_of(call_of(state, steps))))
