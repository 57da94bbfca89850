"""Which backend serves a call, and why.

A backend is a module with ``forward`` and ``backward`` (the arguments of the operator's schema),
``unusable() -> reason | None`` for the machine and ``refuses(tensor) -> reason | None`` for a
call. `AUTO` names, for each device type, the order in which ``auto`` asks them; a backend asked
for by name serves the call or raises.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from . import cpp, reference

BACKENDS: dict[str, ModuleType] = {"reference": reference, "cpp": cpp}

#: The order in which ``auto`` asks the backends, fastest first; the reference serves the rest.
AUTO: dict[str, tuple[str, ...]] = {"cpu": ("cpp",)}

_requested = "auto"
_warned: set[str] = set()


class backend:
    """Choose the backend of `fastrnn.functional` and all that is built on it.

    ``fastrnn.backend("cpp")`` sets it for the process; used as a context manager, the former
    choice returns at the end of the block. The choice holds for forward passes and for the
    backward passes of these.

    Args:
        name: ``"auto"`` (the fastest that serves the call; where it must fall back to the
            reference it says so once), ``"reference"`` or ``"cpp"`` (raises where it cannot serve).

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


def select(tensor: Tensor) -> ModuleType:
    """The backend that serves a call on tensors like this one."""
    if _requested != "auto":
        reason = BACKENDS[_requested].refuses(tensor)
        if reason is not None:
            raise RuntimeError(
                f"the {_requested!r} backend cannot serve this call: {reason}; "
                'use fastrnn.backend("auto")'
            )
        return BACKENDS[_requested]
    why = []
    for name in AUTO.get(tensor.device.type, ()):
        reason = BACKENDS[name].unusable() or BACKENDS[name].refuses(tensor)
        if reason is None:
            return BACKENDS[name]
        why.append(f"{name}: {reason}")
    _warn_once(tensor.device.type, "; ".join(why) or "no kernel serves this device yet")
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


def forward(pre: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator's implementation where no kernel is registered for the device itself."""
    return select(pre).forward(pre, *arguments)


def backward(
    grad_out: Tensor, grad_h_n: Tensor, out: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    """The backward of the same."""
    return select(out).backward(grad_out, grad_h_n, out, *arguments)


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
