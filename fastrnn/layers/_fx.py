"""Layers as single nodes of a torch.fx graph.

torch.fx treats a module as a leaf only if its class is defined in torch.nn, and traces into all
others. A layer's forward depends on shapes and cannot be traced, so it records a call to itself.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy


def is_traced(*arguments: Any) -> bool:
    """Whether an argument of a call is a Proxy, or a pair of states with one."""
    for argument in arguments:
        if argument is not None and (
            isinstance(argument, Proxy)
            or (type(argument) in (tuple, list) and any(isinstance(x, Proxy) for x in argument))
        ):
            return True
    return False


def record_call(module: nn.Module, *arguments: Any, **keywords: Any) -> Any:
    """Record the call of a module with Proxy arguments as one node; return the Proxy of its result.

    Arguments that are None are omitted. The result is None if no such node exists: the module is
    itself the root of the trace, or the tracer does not know modules by name.
    """
    given = {name: value for name, value in keywords.items() if value is not None}
    while arguments and arguments[-1] is None:
        arguments = arguments[:-1]
    tracer = _tracer((*arguments, *given.values()))
    path = tracer.path_of_module(module) if hasattr(tracer, "path_of_module") else ""
    return tracer.create_proxy("call_module", path, arguments, given) if path else None


def _tracer(arguments: Any) -> Any:
    """Return the tracer of the first Proxy among the arguments and the pairs in them."""
    for argument in arguments:
        if isinstance(argument, Proxy):
            return argument.tracer
        if is_traced(argument):
            return _tracer(argument)
    return None
