"""What the layers refuse, in the words of torch's own layers where those have words for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


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


def resets(given: object, shape: Sequence[int], device: torch.device) -> Tensor:
    """A bool for each step of each row, on input's device; returned as it was given."""
    if not isinstance(given, Tensor):
        got = type(given).__name__
    elif given.dtype != torch.bool or list(given.shape) != list(shape) or given.device != device:
        got = f"{given.dtype} of shape {list(given.shape)} on {given.device}"
    else:
        return given
    raise ValueError(
        f"resets must be a torch.bool tensor of shape {list(shape)}, true where a row begins a new "
        f"sequence, on input's device {device}; got {got}"
    )


def packed_resets(given: object, input: PackedSequence) -> Tensor:
    """A PackedSequence of bools that lie as ``input`` does: its data, [N]."""
    if not isinstance(given, PackedSequence):
        raise ValueError(
            "resets must be a PackedSequence of bools, as input is one, made of the same lengths "
            "by torch.nn.utils.rnn.pack_padded_sequence(resets, lengths, ...) from resets [T, B]; "
            f"got {type(given).__name__}"
        )
    alike = _same(given.batch_sizes, input.batch_sizes)
    if not (alike and _same(given.sorted_indices, input.sorted_indices)):
        raise ValueError(_PACKED_OTHERWISE)
    return resets(given.data, input.data.shape[:1], input.data.device)


_PACKED_OTHERWISE = (
    "resets must be packed as input is, with its batch_sizes and its order of rows: make both with "
    "torch.nn.utils.rnn.pack_padded_sequence, of the same lengths and with one enforce_sorted"
)


def _same(given: Tensor | None, wanted: Tensor | None) -> bool:
    """Whether two index tensors are equal; where that would have to be waited for, they assert it.

    On a device, and in compiled code, an assertion that fails later is all that can be had.
    """
    if given is None or wanted is None or given is wanted:
        return given is wanted
    if given.shape != wanted.shape or given.device != wanted.device:
        return False
    if given.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.equal(given, wanted)
    torch._assert_async((given == wanted).all(), _PACKED_OTHERWISE)
    return True


def options(bias: object, batch_first: object, bidirectional: object, num_layers: object) -> None:
    """The types that nn.RNN is made with; some it asks for only when it is called."""
    given = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    for name, value in given.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
    if isinstance(num_layers, bool):
        raise TypeError("num_layers should be of type int, got: bool")


def heads(num_heads: int, hidden_size: int, learned_h0: bool) -> None:
    """What FusedRNN is made with beyond nn.RNN's arguments."""
    if not isinstance(num_heads, int) or isinstance(num_heads, bool) or num_heads < 1:
        raise ValueError(f"num_heads must be a positive integer, got {num_heads!r}")
    if hidden_size % num_heads:
        raise ValueError(
            "num_heads must divide hidden_size, as every head has an equal share of it, but "
            f"{hidden_size} is no multiple of {num_heads}"
        )
    if not isinstance(learned_h0, bool):
        raise TypeError(f"learned_h0 should be of type bool, got: {type(learned_h0).__name__}")


def no_lengths(given: Tensor | None, given_with: str) -> None:
    if given is not None:
        raise ValueError(f"lengths is for padded 3-D input, but came with {given_with}")
