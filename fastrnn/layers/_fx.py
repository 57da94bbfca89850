"""Layers as single nodes of a torch.fx graph.

torch.fx treats a module as a leaf only if its class is defined in torch.nn, and traces into all
others. A layer's forward depends on shapes and cannot be traced, so it records a call to itself.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy


def record_call(module: nn.Module, *arguments: Any, **keywords: Any) -> Any:
    """Record the call of a module with Proxy arguments as one node; return the Proxy of its result.

    Arguments that are None are omitted. The result is None if no such node exists: the module is
    itself the root of the trace, or the tracer does not know modules by name.
    """
    given = {name: value for name, value in keywords.items() if value is not None}
    while arguments and arguments[-1] is None:
        arguments = arguments[:-1]
    tracer = next(x.tracer for x in (*arguments, *given.values()) if isinstance(x, Proxy))
    path = tracer.path_of_module(module) if hasattr(tracer, "path_of_module") else ""
    return tracer.create_proxy("call_module", path, arguments, given) if path else None
