"""Names from earlier releases: they warn for one more release and are then removed."""

from __future__ import annotations

import warnings
from typing import Any

from ._convert import ConversionReport
from .ops.backends.dispatch import BackendStatus, backends, requested, set_backend


class _Backend:
    """``fastrnn.backend(name)``: sets the backend of the process, or as a context of a block."""

    def __init__(self, name: str) -> None:
        self._former = requested()
        set_backend(name)

    def __enter__(self) -> _Backend:
        return self

    def __exit__(self, *exception: object) -> None:
        set_backend(self._former)


def _report() -> list[BackendStatus]:
    return list(backends().values())


_NAMES: dict[str, tuple[Any, str]] = {
    "Conversion": (ConversionReport, "fastrnn.ConversionReport"),
    "backend": (_Backend, "fastrnn.set_backend(name), or with fastrnn.use_backend(name):"),
    "report": (_report, "fastrnn.backends()"),
}


def find(name: str) -> Any:
    """Return the object of this name and warn which name replaces it.

    Raises:
        AttributeError: no earlier release had this name.
    """
    if name not in _NAMES:
        raise AttributeError(f"module 'fastrnn' has no attribute {name!r}")
    found, successor = _NAMES[name]
    warnings.warn(
        f"fastrnn.{name} will be removed in the next release: use {successor}",
        DeprecationWarning,
        stacklevel=3,
    )
    return found
