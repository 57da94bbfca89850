"""Lazy loading of the compiled extensions, each with the reason why it is unavailable.

No other file loads them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ..._version import __version__


class Extension:
    """A module of compiled kernels; loading it registers them with torch.

    Args:
        name: the name of the module in `fastrnn`.
        error: the file in the package's folder that a failed build writes: the reason in its
            first line, then the whole log.
        remedy: the instruction to build the module.
        prepare: called with the module after loading; may raise ImportError.
    """

    def __init__(
        self, name: str, error: str, remedy: str, prepare: Callable[[Any], None] | None = None
    ) -> None:
        self.name = f"fastrnn.{name}"
        self.error = Path(__file__).resolve().parents[2] / error
        self._remedy = remedy
        self._prepare = prepare

    @functools.cached_property
    def module(self) -> Any:
        """The module, loaded on first use."""
        module: ModuleType = import_module(self.name)
        if self._prepare is not None:
            self._prepare(module)
        return module

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """Build information: versions, compiler, instruction sets or architectures."""
        return dict(self.module.info())

    @functools.cached_property
    def unavailable_reason(self) -> str | None:
        """Why the extension cannot be used, or None."""
        try:
            built = self.info["version"]
        except ModuleNotFoundError as error:
            if error.name != self.name:
                return str(error)
            return f"not built: {self._build_error()}"
        except (ImportError, OSError) as error:
            return f"built, but cannot be loaded: {error}"
        if built != __version__:
            return f"built for fastrnn {built}, but this is {__version__}: build it again"
        return None

    def is_loaded(self) -> bool:
        """Whether this process has loaded the module, usable or not."""
        return sys.modules.get(self.name) is not None

    def _build_error(self) -> str:
        try:
            return self.error.read_text().partition("\n")[0]
        except FileNotFoundError:
            return self._remedy
