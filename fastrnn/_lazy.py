"""Lazy imports of a package's names, in the command `fastrnn` only.

In a library, a package imports all of its names eagerly, so that after `import fastrnn` torch knows
the operators of a saved program. The command needs none of them to print its help.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

# The program that Python runs: a script's path, or a module's name.
_PROGRAM = sys.orig_argv[-len(sys.argv) :][:1]
COMMAND = [os.path.basename(each) for each in _PROGRAM] == ["fastrnn"]


def provide(package: str, homes: Mapping[str, str]) -> None:
    """Give a package a `__getattr__` that imports each name at its first use.

    Args:
        package: the package's full name.
        homes: name -> the submodule that defines it, under another name; "" if the name is itself
            a submodule.
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
