"""Names that a package provides at their first use: all of them in the command `fastrnn`.

As a library a package imports all of its names at once: after `import fastrnn`, torch knows the
operators of a saved program. The command needs none of that to print its help.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

# What Python was started with, after its own options: a script's path, or a module's name.
_PROGRAM = sys.orig_argv[-len(sys.argv) :][:1]
COMMAND = [os.path.basename(each) for each in _PROGRAM] == ["fastrnn"]


def provide(package: str, homes: Mapping[str, str]) -> None:
    """Give a package a `__getattr__` that imports a name at its first use.

    Args:
        homes: name -> the module of the package that defines it, which has another name; "" where
            it is itself a module.
    """
    namespace = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        module = import_module(f"{package}.{home or name}")
        namespace[name] = getattr(module, name) if home else module
        return namespace[name]

    namespace["__getattr__"] = get
