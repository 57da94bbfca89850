"""Selection of the backend for a call.

A backend requested by name serves the call or raises. `auto` selects the first that is available,
supports the call, is verified and is not known to be slower. Failing that, it selects one that is
only slower, then torch's own for a layer that nn.RNN can express, then the reference.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..arguments import Arguments, Outputs, State, with_empty
from ..cells.base import Step
from . import cpu, cuda, reference, torch_rnn, triton
from .base import Backend, Call, Kernels

#: All backends by name. The position is the backend's number in the operators' schemas.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (reference.BACKEND, cpu.BACKEND, cuda.BACKEND, triton.BACKEND, torch_rnn.BACKEND)
}

NAMES = tuple(BACKENDS)

#: The kernels that `auto` considers on a device, fastest first.
AUTO: dict[str, tuple[Kernels, ...]] = {
    "cpu": (cpu.BACKEND,),
    "cuda": (triton.BACKEND, cuda.BACKEND),
}

_default = "auto"
#: The last choice of any thread: Dynamo guards on a global, but not on a thread-local variable.
_last = "auto"
_warned: set[str] = set()


class _Local(threading.local):
    name: str | None = None  #: the choice of `use_backend` in this thread


_local = _Local()


def set_backend(name: str) -> None:
    """Set the backend of all recurrent layers in this process.

    Every forward pass reads the setting, and the backward pass of that call uses the same backend.

    Args:
        name: ``"auto"`` (the default: the fastest backend for the call, including torch's own
            implementation), ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"torch"``.
            A backend set by name serves a call or raises.

    Raises:
        ValueError: there is no backend with this name.
        RuntimeError: the backend is not available on this machine; the message says why.
    """
    global _default, _last
    name = _validate(name, stacklevel=3)
    _default = _last = name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Context manager that sets the backend; see `set_backend` for the names and the errors.

    Blocks nest. The setting applies to the current thread only, except in functions compiled by
    torch.compile: these follow the last setting of any thread.

    Example:
        >>> with fastrnn.use_backend("reference"):
        ...     output, h_n = rnn(input)
    """
    global _last
    name = _validate(name, stacklevel=4)  # contextlib adds a frame
    previous, _local.name = _local.name, name
    _last = name
    try:
        yield
    finally:
        _local.name = previous
        _last = previous or _default


def requested() -> str:
    """Return the name set by `use_backend`, or else by `set_backend`; "auto" by default."""
    return _last if torch.compiler.is_compiling() else _local.name or _default


def runs_cpu_kernels() -> bool:
    """Whether the kernels of the extension are to serve CPU tensors, and can."""
    return requested() in ("auto", "cpu") and cpu.EXTENSION.unavailable_reason is None


def number_by_name(data: Tensor) -> int | None:
    """Return the number of the requested backend in the operators' schemas; None for `auto`.

    The kernels for CPU tensors are registered as the operators themselves, and need no number. If
    "torch" is requested but a layer needs the recurrence alone, as for a second derivative, the
    result is None too.
    """
    name = requested()
    if name in ("auto", "torch") or (name == "cpu" and data.is_cpu):
        return None
    return NAMES.index(name)


def _validate(name: str, stacklevel: int) -> str:
    if name == "auto":
        return name
    if name == "cpp":
        warnings.warn(
            "the backend 'cpp' is now called 'cpu', and the next release will drop the old name",
            DeprecationWarning,
            stacklevel=stacklevel,
        )
        name = "cpu"
    if name not in BACKENDS:
        known = ", ".join(repr(known) for known in ("auto", *BACKENDS))
        raise ValueError(f"unknown backend {name!r}: choose one of {known}")
    reason = BACKENDS[name].unavailable_reason()
    if reason is not None:
        raise RuntimeError(f"the {name!r} backend is not available here: {reason}")
    return name


NO_RECURRENCE = "it serves whole layers that nn.RNN can express, not a recurrence alone"


def raise_unsupported(name: str, reason: str) -> NoReturn:
    """Raise the error for a backend that was requested by name and cannot serve the call."""
    raise RuntimeError(
        f'the {name!r} backend cannot serve this call: {reason}; use fastrnn.set_backend("auto")'
    )


def for_recurrence(call: Call, name: str = "auto") -> Kernels:
    """Return the backend for a call of the recurrence: the named one, or the selection of `auto`.

    Raises:
        RuntimeError: the named backend cannot serve the call.
    """
    if name == "auto":
        kernels, reasons = best_kernels(call)
        if kernels is None:
            _warn_once(call.device.type, reasons)
            return reference.BACKEND
        return kernels
    backend = BACKENDS[name]
    reason = backend.unsupported_reason(call)
    if reason is not None:
        raise_unsupported(name, reason)
    if not isinstance(backend, Kernels):
        raise_unsupported(name, NO_RECURRENCE)
    return backend


def for_layer(call: Call, prefer_kernels: bool = False) -> Backend:
    """Return the backend that `auto` selects for a layer that nn.RNN can express.

    Args:
        call: the call to serve.
        prefer_kernels: whether to use torch's own implementation only if there are no kernels.
    """
    if not prefer_kernels and torch_rnn.BACKEND.slower_reason(call) is None:
        return torch_rnn.BACKEND
    return best_kernels(call)[0] or torch_rnn.BACKEND


def best_kernels(call: Call) -> tuple[Kernels | None, dict[str, str]]:
    """Return the kernels that `auto` selects, or None, and the reasons against the others."""
    reasons: dict[str, str] = {}
    slower = None
    for backend in AUTO.get(call.device.type, ()):
        reason = reason_against(backend, call)
        if reason is None:
            reason = backend.slower_reason(call)
            if reason is None:
                return backend, reasons
            slower = slower or backend
        reasons[backend.name] = reason
    return slower, reasons


def reason_against(backend: Backend, call: Call) -> str | None:
    """Why `auto` cannot use a backend, regardless of its speed."""
    # With an assumed GPU, everything is assumed to be installed.
    return (
        (backend.unavailable_reason() if call.gpu is None else None)
        or backend.unsupported_reason(call)
        or backend.unverified_reason(call)
    )


def _warn_once(device: str, reasons: dict[str, str]) -> None:
    if device in _warned:
        return
    _warned.add(device)
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    warnings.warn(
        f"fastrnn runs the slow PyTorch reference on {device!r} tensors "
        f"({why or 'no kernel supports this device'}). Run `python -m fastrnn` for details.",
        RuntimeWarning,
        stacklevel=3,
    )


# The implementations of the operators in `fastrnn.ops.recurrence`, with the schemas' arguments, for
# devices without a registered kernel.


def forward(pre: Tensor, *given: Any, name: str = "auto") -> tuple[Tensor, ...]:
    """Implement the operator: `given` are the `Arguments` and whether to save."""
    *fields, save = given
    arguments = Arguments(*fields)
    results = _kernels(pre, arguments, name).recurrence(pre, arguments, save)
    return with_empty(results, like=pre)


def forward_out(
    pre: Tensor,
    *given: Any,
    out: Tensor,
    c_n: Tensor | None = None,
    gates: Tensor | None = None,
    inner: Tensor | None = None,
) -> Tensor:
    """Implement the operator's out form; gates, and out if K = 1, may be pre."""
    arguments = Arguments(*given)
    shape = *pre.shape[:-1], arguments.h0.shape[-1]
    _check_output("out", out, shape, pre)
    if c_n is not None:
        _check_output("c_n", c_n, arguments.h0.shape, pre)
    if gates is not None:
        _check_output("gates", gates, pre.shape, pre)
    if inner is not None:
        _check_output("inner", inner, shape, pre)
    return _kernels(pre, arguments).recurrence_out(pre, arguments, out, c_n, gates, inner)


def backward(
    grad_out: Tensor,
    grad_h_n: Tensor,
    grad_c_n: Tensor | None,
    out: Tensor,
    gates: Tensor | None,
    inner: Tensor | None,
    *given: Any,
    name: str = "auto",
) -> tuple[Tensor, ...]:
    """Implement the operator's backward: `given` are the `Arguments`."""
    arguments = Arguments(*given)
    grads, saved = Outputs(grad_out, grad_h_n, grad_c_n), Step(State(out), gates, inner)
    results = _kernels(out, arguments, name).recurrence_backward(grads, saved, arguments)
    return with_empty(results, like=out)


def forward_by(*arguments: Any) -> tuple[Tensor, ...]:
    """Run `forward` on the backend whose number is the last argument."""
    *given, number = arguments
    return forward(*given, name=NAMES[number])


def backward_by(*arguments: Any) -> tuple[Tensor, ...]:
    """Run `backward` on the backend whose number is the last argument."""
    *given, number = arguments
    return backward(*given, name=NAMES[number])


def _kernels(data: Tensor, arguments: Arguments, name: str = "auto") -> Kernels:
    call = Call.of(data, arguments.h0, arguments.ragged(), arguments.mode)
    return for_recurrence(call, name)


def _check_output(name: str, tensor: Tensor, shape: Sequence[int], pre: Tensor) -> None:
    if tensor.shape != shape or tensor.dtype != pre.dtype or not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous and have the shape {list(shape)} and pre's dtype "
            f"{pre.dtype}, got {tensor.dtype} of shape {list(tensor.shape)} and strides "
            f"{tensor.stride()}"
        )


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can be used on this machine."""

    name: str
    reason: str | None  #: why it cannot be used, or None
    detail: str  #: versions, instruction sets and verified hardware


def backends() -> dict[str, BackendStatus]:
    """Return the status of every backend by name: whether this machine can use it, or why not."""
    status = {}
    for name, backend in BACKENDS.items():
        reason = backend.unavailable_reason()
        status[name] = BackendStatus(name, reason, "" if reason else backend.detail())
    return status
