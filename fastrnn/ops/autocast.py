"""Autocast: cast tensors to its dtype, or run a function with autocast disabled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ._torch_private import is_any_autocast


def is_autocasting(tensor: Tensor) -> bool:
    """Whether autocast is enabled for the tensor's device."""
    if not is_any_autocast():
        return False
    # torch.is_autocast_enabled raises on the meta device. torch.amp.is_autocast_available would
    # detect that, but torch.compile cannot trace it in torch 2.10.
    device = tensor.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def cast(*tensors: Tensor | None) -> list[Tensor]:
    """Cast the tensors to their device's autocast dtype; float64 stays as it is, as in torch."""
    device = next(t for t in tensors if t is not None).device.type
    dtype = torch.get_autocast_dtype(device)
    eligible = (torch.float32, torch.float16, torch.bfloat16)
    return [t.to(dtype) if t is not None and t.dtype in eligible else t for t in tensors]  # type: ignore[misc]


def without_autocast(function: Callable) -> Callable:
    """Run the function with autocast disabled, which would otherwise cast its sums again."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        if not is_any_autocast():
            return function(*arguments, **keywords)
        device = next(_tensors(arguments)).device.type
        with torch.autocast(device, enabled=False):
            return function(*arguments, **keywords)

    return wrapped


def _tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among the arguments, also those within tuples and lists."""
    for x in arguments:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, tuple | list):
            yield from _tensors(x)
