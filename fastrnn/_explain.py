"""Explain which backend runs a call and why the others do not, on this machine or another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .ops.backends import cpu, cuda, dispatch, triton
from .ops.backends.base import Call, Gpu, precision_of
from .ops.backends.triton.table import choose
from .ops.cells import CELLS, CODES

#: GPUs that `explain` accepts by name without the hardware. Their numbers of concurrent clusters
#: are assumptions, except the H200's, which a driver reported. A GPU that is present is queried.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100", (8, 0), 108, 166912, (0, 0, 0, 0, 0)),
        Gpu("H100", (9, 0), 132, 232448, (132, 66, 32, 15, 7)),
        Gpu("H200", (9, 0), 132, 232448, (132, 66, 30, 15, 7)),
        Gpu("B200", (10, 0), 148, 232448, (148, 74, 36, 16, 8)),
    )
}

#: Device types that `explain` accepts without the hardware.
OTHERS = ("cpu", "mps", "xpu")


@dataclass(frozen=True, repr=False)
class Explanation:
    """The result of `explain`, which prints as a report."""

    call: Call
    backend: str  #: the name of the backend that serves the call
    reasons: dict[str, str]  #: backend name -> why it does not serve the call
    plans: str  #: the kernels of the call and how they divide the work

    def __repr__(self) -> str:
        call = self.call
        where = call.gpu.name if call.gpu is not None else str(call.device)
        kind = "training" if call.training else "inference"
        shape = f"T={call.steps} B={call.batch} G={call.groups} H={call.hidden}"
        width = max(len(name) for name in dispatch.BACKENDS)
        if not call.is_of_nn_rnn():
            shape = f"{call.mode} {shape}"
        lines = [f"{shape}, {_precision(call)}, {kind}, on {where}", ""]
        lines.append(f"> {self.backend:<{width}}  serves the call")
        lines += [f"  {name:<{width}}  {reason}" for name, reason in self.reasons.items()]
        return "\n".join([*lines, *(["", self.plans] if self.plans else [])])


def explain(
    steps: int,
    batch: int,
    hidden: int,
    *,
    groups: int = 1,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    training: bool = False,
    mode: str = "RNN_TANH",
) -> Explanation:
    """Explain which backend `auto` selects for a layer, and how a GPU kernel divides the work.

    The result is for an eager call that torch's layer can express: without lengths, resets, heads.
    Calls with them run on the same kernels. Where torch's own implementation serves the call, the
    report names the backend that serves them.

    Args:
        steps: T, at least 1.
        batch: B, at least 1.
        hidden: H, at least 1.
        groups: G; 2 for a bidirectional layer.
        dtype: dtype of the tensors. ``torch.backends.cudnn.rnn.fp32_precision`` selects the
            precision of float32 on a GPU.
        device: a torch device ("cpu", "mps" and "xpu" need not be present), or the name of a GPU:
            A100, H100, H200 or B200, assuming that everything is installed there. None: the
            current CUDA device, or the CPU if there is none.
        training: whether autograd records the call.
        mode: the layer's, as nn.RNNBase's attribute: "RNN_TANH", "RNN_RELU", "LSTM" or "GRU". For a
            leak "LEAKY_TANH" or "LEAKY_RELU", and "LEAKY_PRE_TANH" or "LEAKY_PRE_RELU" if the
            pre-activation leaks.

    Returns:
        An `Explanation`, which prints as a report.

    Raises:
        ValueError: a size is less than 1, or the device or the mode is unknown.
        RuntimeError: the device is a CUDA device, but torch finds none.
    """
    if min(steps, batch, hidden, groups) < 1:
        raise ValueError("steps, batch, hidden and groups must be at least 1")
    if mode not in CODES:
        raise ValueError(f"mode must be one of {', '.join(CODES)}, got {mode!r}")
    device, gpu = _device(device)
    call = Call(mode, steps, batch, groups, hidden, dtype, device, training, gpu)
    backend = _backend(call)
    return Explanation(call, backend.name, _reasons(call, backend.name), _plans(call, backend.name))


def _backend(call: Call) -> dispatch.Backend:
    if CELLS[CODES[call.mode]].is_leaky:  # torch has no such layer
        return dispatch.best_kernels(call)[0] or dispatch.BACKENDS["reference"]
    return dispatch.for_layer(call)


def _device(device: str | torch.device | None) -> tuple[torch.device, Gpu | None]:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(device, str) and device.upper() in GPUS:
        return torch.device("cuda"), GPUS[device.upper()]
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(_UNKNOWN.format(device)) from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(f"torch finds no CUDA GPU: name one of {', '.join(GPUS)}")
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    elif device.type not in OTHERS:
        raise ValueError(_UNKNOWN.format(device))
    return device, None


_UNKNOWN = f"device must be one of {', '.join(('cuda', *OTHERS, *GPUS))}, got {{}}"


def _reasons(call: Call, chosen: str) -> dict[str, str]:
    reasons = dispatch.best_kernels(call)[1]
    for name, backend in dispatch.BACKENDS.items():
        if name == chosen or name in reasons:
            continue
        if name == "reference":
            reasons[name] = "it is slower than every other backend"
        else:
            reasons[name] = (
                dispatch.reason_against(backend, call)
                or backend.slower_reason(call)
                or f"{chosen} is faster: {_faster(call)}"
            )
    reasons.pop(chosen, None)
    return {name: reasons[name] for name in dispatch.BACKENDS if name in reasons}


def _faster(call: Call) -> str:
    if call.device.type == "cpu" and call.dtype == torch.bfloat16:
        return "oneDNN uses this processor's instructions for products of bfloat16"
    if call.device.type == "cpu":
        return "so few rows do not repay rearranging the weights"
    return "according to the benchmarks on an H200"


def _plans(call: Call, chosen: str) -> str:
    """Describe the GPU kernels, forward and backward, or the backend that complements torch's."""
    if chosen == "torch":
        kernels = dispatch.best_kernels(call)[0]
        other = "reference" if kernels is None else kernels.name
        layer = "nn." + call.mode.partition("_")[0]
        return (
            f"What {layer} cannot do (lengths, resets, heads, torch.compile, torch.export, "
            f"torch.func) runs on: {other}."
        )
    if call.device.type != "cuda" or chosen == "reference":
        return ""
    if chosen == "triton":
        return f"The {choose(triton.sizes_of(call))} kernel, forward and backward."
    reason = cpu.EXTENSION.unavailable_reason
    if reason is not None:
        return f"The plan needs the C++ extension, which is not available: {reason}"
    module = cpu.EXTENSION.module
    gpu, index = call.gpu, call.device.index
    device = cuda.device(index) if gpu is None else module.Device(*gpu[1:])
    lines = []
    for direction in ("forward", "backward"):
        sizes = call.steps, call.batch, call.groups, call.hidden
        mode = precision_of(call.dtype)
        best, options = module.plans(
            device, mode, direction == "backward", *sizes, CODES[call.mode]
        )
        lines.append(f"{direction}: {best}")
        for strategy, plan in options.items():
            marker = ">" if strategy == best else " "
            lines.append(f"{marker} {strategy:<8} {_row(plan, call.steps)}")
    lines.append("Cycles per step: estimates of the model that ranks the plans, not measurements.")
    return "\n".join(lines)


def _row(plan: Any, steps: int) -> str:
    return plan if isinstance(plan, str) else f"{plan.cycles / steps:>7.0f} cycles  {plan}"


def _precision(call: Call) -> str:
    name, precision = str(call.dtype).removeprefix("torch."), precision_of(call.dtype)
    if call.device.type != "cuda" or precision in ("half", name):
        return name
    return f"{name} ({precision} products)"
