"""Which backend serves a call, and why.

A backend is a module with ``forward``, ``forward_`` and ``backward`` (the arguments of the
operators' schemas), ``unusable() -> reason | None`` for the machine and ``refuses(state) -> reason
| None`` for a call, of which the initial state [B, G, H] tells enough. `AUTO` names, for each
device type, those that ``auto`` asks, in order; a backend asked for by name serves or raises.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from . import cpp, cuda, reference, triton

BACKENDS: dict[str, ModuleType] = {
    "reference": reference,
    "cpp": cpp,
    "cuda": cuda,
    "triton": triton,
}

#: Whom ``auto`` asks on a device, fastest first, and what it asks: why not? The reference serves
#: the rest. Kernels for a GPU must have been proven on such a one. Triton is asked twice: where it
#: is the fastest, and where no other can.
AUTO: dict[str, tuple[tuple[str, Callable[[Tensor, int], str | None]], ...]] = {
    "cpu": (("cpp", lambda state, steps: cpp.refuses(state)),),
    "cuda": (
        ("triton", triton.outrun),
        ("cuda", lambda state, steps: cuda.untried(state)),
        ("triton", lambda state, steps: triton.untried(state)),
    ),
}

_requested = "auto"
_warned: set[str] = set()


class backend:
    """Choose the backend of `fastrnn.functional` and all that is built on it.

    ``fastrnn.backend("cpp")`` sets it for the process; used as a context manager, the former
    choice returns at the end of the block. The choice holds for forward passes and for the
    backward passes of these.

    Args:
        name: ``"auto"`` (the fastest that serves the call; where it must fall back to the
            reference it says so once), ``"reference"``, ``"cpp"``, ``"cuda"`` or ``"triton"``
            (each raises where it cannot serve).

    Raises:
        ValueError: no backend has that name.
        RuntimeError: the backend named is not usable on this machine.
    """

    def __init__(self, name: str) -> None:
        global _requested
        if name != "auto":
            if name not in BACKENDS:
                known = ", ".join(repr(known) for known in ("auto", *BACKENDS))
                raise ValueError(f"unknown backend {name!r}: choose one of {known}")
            reason = BACKENDS[name].unusable()
            if reason is not None:
                raise RuntimeError(f"the {name!r} backend is not usable here: {reason}")
        self.name = name
        self._former, _requested = _requested, name

    def __enter__(self) -> backend:
        return self

    def __exit__(self, *exception: object) -> None:
        global _requested
        _requested = self._former

    def __repr__(self) -> str:
        return f"fastrnn.backend({self.name!r})"


def requested() -> str:
    """The name last given to `backend`, or "auto"."""
    return _requested


def named(name: str, state: Tensor) -> ModuleType:
    """The backend of that name, for a call with a state like this one; it serves or this raises."""
    reason = BACKENDS[name].refuses(state)
    if reason is not None:
        raise RuntimeError(
            f'the {name!r} backend cannot serve this call: {reason}; use fastrnn.backend("auto")'
        )
    return BACKENDS[name]


def select(state: Tensor, steps: int) -> ModuleType:
    """The backend that serves a call of so many steps with a state like this one, [B, G, H]."""
    if _requested != "auto":
        return named(_requested, state)
    why = {}
    for name, refuses in AUTO.get(state.device.type, ()):
        reason = BACKENDS[name].unusable() or refuses(state, steps)
        if reason is None:
            return BACKENDS[name]
        why[name] = f"{name}: {reason}"
    reasons = "; ".join(why.values()) or "no kernel serves this device yet"
    _warn_once(state.device.type, reasons)
    return reference


def _warn_once(device: str, reason: str) -> None:
    if device not in _warned:
        _warned.add(device)
        warnings.warn(
            f"fastrnn runs the slow PyTorch reference on {device!r} tensors ({reason}). "
            "`python -m fastrnn` tells more.",
            RuntimeWarning,
            stacklevel=3,
        )


def _steps(data: Tensor, offsets: Tensor | None) -> int:
    return data.shape[0] if offsets is None else offsets.shape[0]


def forward(pre: Tensor, weight_hh: Tensor, h0: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator's implementation where no kernel is registered for the device itself."""
    return select(h0, _steps(pre, arguments[1])).forward(pre, weight_hh, h0, *arguments)


def forward_(pre: Tensor, weight_hh: Tensor, h0: Tensor, *arguments: Any) -> Tensor:
    """The operator in place."""
    return select(h0, pre.shape[0]).forward_(pre, weight_hh, h0, *arguments)


def backward(
    grad_out: Tensor,
    grad_h_n: Tensor,
    out: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    *arguments: Any,
) -> tuple[Tensor, Tensor]:
    """The operator's backward."""
    module = select(h0, _steps(out, arguments[1]))
    return module.backward(grad_out, grad_h_n, out, weight_hh, h0, *arguments)


@dataclass(frozen=True)
class BackendStatus:
    """One line of the doctor's table."""

    name: str
    reason: str | None  #: why it cannot be used; None when it can
    detail: str


def report() -> list[BackendStatus]:
    """Every backend, whether it can be used on this machine, and what it is."""
    status = []
    for name, module in BACKENDS.items():
        reason = module.unusable()
        status.append(BackendStatus(name, reason, "" if reason else module.detail()))
    return status
