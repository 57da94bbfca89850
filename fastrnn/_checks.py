"""What the layers refuse, in the words of torch's own layers where those have words for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def attributes(input: Tensor, weight: Tensor, hx: Tensor | None) -> None:
    """One device for all and, unless autocast casts, one dtype: ATen's check of this name."""
    if hx is not None and hx.device != input.device:
        raise RuntimeError(
            "Input and hidden tensors are not at the same device, "
            f"found input tensor at {input.device} and hidden tensor at {hx.device}"
        )
    if weight.device != input.device:
        raise RuntimeError(
            "Input and parameter tensors are not at the same device, "
            f"found input tensor at {input.device} and parameter tensor at {weight.device}"
        )
    if hx is not None and hx.dtype != input.dtype and not torch._C._is_any_autocast_enabled():
        raise RuntimeError(
            "Input and hidden tensors are not the same dtype, "
            f"found input tensor with {input.dtype} and hidden tensor with {hx.dtype}"
        )


def steps(count: int) -> None:
    """At least one. A graph that is traced is not held to it where only its data will tell."""
    empty = count == 0
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        empty = statically_known_true(empty)
    if empty:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")


def lengths(given: Tensor, batch: int, device: torch.device) -> None:
    """An integer a row, on input's device. Their values would have to be waited for."""
    if not isinstance(given, Tensor):
        got = type(given).__name__
    elif (
        given.shape != (batch,)
        or given.dtype not in (torch.int64, torch.int32)
        or given.device != device
    ):
        got = f"{given.dtype} of shape {list(given.shape)} on {given.device}"
    else:
        return
    raise ValueError(
        f"lengths must be a torch.int64 or torch.int32 tensor of shape [{batch}], one length a "
        f"row, on input's device {device}; got {got}"
    )


def resets(given: Tensor, shape: Sequence[int], device: torch.device) -> None:
    """A bool for each step of each row, on input's device."""
    if not isinstance(given, Tensor):
        got = type(given).__name__
    elif given.dtype != torch.bool or list(given.shape) != list(shape) or given.device != device:
        got = f"{given.dtype} of shape {list(given.shape)} on {given.device}"
    else:
        return
    raise ValueError(
        f"resets must be a torch.bool tensor of shape {list(shape)}, true where a row begins a new "
        f"sequence, on input's device {device}; got {got}"
    )


def no_lengths(given: Tensor | None, given_with: str) -> None:
    if given is not None:
        raise ValueError(f"lengths is for padded 3-D input, but came with {given_with}")


def cell_hidden(hx: Tensor, batch: int, hidden_size: int) -> None:
    """hx is [batch, hidden_size]."""
    if hx.size(0) != batch:
        raise RuntimeError(
            f"Input batch size {batch} doesn't match hidden0 batch size {hx.size(0)}"
        )
    if hx.size(1) != hidden_size:
        raise RuntimeError(
            f"hidden0 has inconsistent hidden_size: got {hx.size(1)}, expected {hidden_size}"
        )
