"""Argument checks of layers and functions, with torch's own error messages where they exist."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .ops._torch_private import assert_async, is_any_autocast, statically_known_true
from .ops.arguments import Arguments, State
from .ops.cells import CELLS, CODES, RNN_MODES
from .ops.options import Options
from .ops.ragged import Ragged

_OFFSETS_ALONE = "offsets describe packed rows and need lengths as well"


def attributes(input: Tensor, weight: Tensor, *states: Tensor | None) -> None:
    """Require one device and, without autocast, one dtype: ATen's check of the same name."""
    for x in states:
        if x is not None and x.device != input.device:
            raise RuntimeError(
                "Input and hidden tensors are not at the same device, "
                f"found input tensor at {input.device} and hidden tensor at {x.device}"
            )
    if weight.device != input.device:
        raise RuntimeError(
            "Input and parameter tensors are not at the same device, "
            f"found input tensor at {input.device} and parameter tensor at {weight.device}"
        )
    for x in states:
        if x is not None and x.dtype != input.dtype and not is_any_autocast():
            raise RuntimeError(
                "Input and hidden tensors are not the same dtype, "
                f"found input tensor with {input.dtype} and hidden tensor with {x.dtype}"
            )


def state_dims(state: State, dim: int) -> None:
    """Require batched states for batched input, and unbatched ones for one sequence."""
    if state.h.dim() != dim or (state.c is not None and state.c.dim() != dim):
        kind = "batched 3-D" if dim == 3 else "unbatched 2-D"
        raise RuntimeError(f"For {kind} input, {_dims_error(state, f'also be {dim}-D')}")


def step_dims(state: State, dim: int) -> None:
    """Require states with one dimension more than the input of a step."""
    if state.h.dim() != dim + 1 or (state.c is not None and state.c.dim() != dim + 1):
        raise ValueError(f"step: for {dim}-D input, {_dims_error(state, f'be {dim + 1}-D')}")


def _dims_error(state: State, wanted: str) -> str:
    """Describe the states of a call, in the words of torch's layers."""
    if state.c is None:
        return f"hx should {wanted} but got {state.h.dim()}-D tensor"
    return f"hx and cx should {wanted} but got ({state.h.dim()}-D, {state.c.dim()}-D) tensors"


def steps(count: int) -> None:
    """Require at least one step. Compiled code is checked only where the count is known."""
    empty = count == 0
    if torch.compiler.is_compiling():
        empty = statically_known_true(empty)
    if empty:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")


def lengths(given: Tensor, batch: int, device: torch.device) -> None:
    """Require one integer per row, on input's device.

    The values are not checked, as that would synchronize with the device.
    """
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
        f"lengths must be a torch.int64 or torch.int32 tensor of shape [{batch}], one length "
        f"per row, on input's device {device}; got {got}"
    )


def resets(given: object, shape: Sequence[int], device: torch.device) -> Tensor:
    """Require one bool per step of each row, on input's device; return the tensor unchanged."""
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
    """Require a PackedSequence of bools, packed as ``input`` is; return its data, [N]."""
    if not isinstance(given, PackedSequence):
        raise ValueError(
            "input is a PackedSequence, so resets must be a PackedSequence of bools, made with the "
            "same lengths: torch.nn.utils.rnn.pack_padded_sequence(resets, lengths, ...) with "
            "resets [T, B]; "
            f"got {type(given).__name__}"
        )
    same_sizes = _same(given.batch_sizes, input.batch_sizes)
    if not (same_sizes and _same(given.sorted_indices, input.sorted_indices)):
        raise ValueError(_PACKED_DIFFERENTLY)
    return resets(given.data, input.data.shape[:1], input.data.device)


_PACKED_DIFFERENTLY = (
    "resets must be packed as input is, with its batch_sizes and order of rows: make both with "
    "torch.nn.utils.rnn.pack_padded_sequence, the same lengths and the same enforce_sorted"
)


def _same(given: Tensor | None, wanted: Tensor | None) -> bool:
    """Whether two index tensors are equal.

    On an accelerator and in compiled code the comparison becomes an asynchronous assertion, which
    may fail later: reading the result would synchronize with the device or break the graph.
    """
    if given is None or wanted is None or given is wanted:
        return given is wanted
    if given.shape != wanted.shape or given.device != wanted.device:
        return False
    if given.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.equal(given, wanted)
    assert_async((given == wanted).all(), _PACKED_DIFFERENTLY)
    return True


def options(bias: object, batch_first: object, bidirectional: object, num_layers: object) -> None:
    """Check types of constructor arguments, some of which nn.RNN checks only when it is called."""
    given = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    for name, value in given.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
    if isinstance(num_layers, bool):
        raise TypeError("num_layers should be of type int, got: bool")


def heads(num_heads: int, hidden_size: int, learned_h0: bool) -> None:
    """Check the constructor arguments that our layers add to those of torch's."""
    if not isinstance(num_heads, int) or isinstance(num_heads, bool) or num_heads < 1:
        raise ValueError(f"num_heads must be a positive integer, got {num_heads!r}")
    if hidden_size % num_heads:
        raise ValueError(
            "num_heads must divide hidden_size, as every head has an equal share of it, but "
            f"{hidden_size} is not a multiple of {num_heads}"
        )
    if not isinstance(learned_h0, bool):
        raise TypeError(f"learned_h0 should be of type bool, got: {type(learned_h0).__name__}")


def no_projection(**given: bool) -> None:
    """Reject features that nn.LSTM, which runs a layer with a proj_size, lacks."""
    beyond = [name for name, is_given in given.items() if is_given]
    if beyond:
        raise ValueError(
            "nn.LSTM's own implementation runs a layer with proj_size > 0, and it does not support "
            f"{' or '.join(beyond)}: set proj_size=0, or use only what nn.LSTM supports, such as a "
            "PackedSequence instead of lengths"
        )


def leak(given: object, learned: object, leak_on: str) -> None:
    """Check the constructor arguments of a leak."""
    if not isinstance(learned, bool):
        raise TypeError(f"learned_leak should be of type bool, got: {type(learned).__name__}")
    if given is None:
        if learned:
            raise ValueError("learned_leak=True needs leak, the value at which α starts")
    elif not isinstance(given, (int, float)) or isinstance(given, bool) or not 0 < given <= 1:
        raise ValueError(f"leak must be a number with 0 < leak <= 1, got {given!r}")
    if leak_on not in ("state", "preactivation"):
        raise ValueError(f"leak_on must be 'state' or 'preactivation', got {leak_on!r}")


def no_lengths(given: Tensor | None, given_with: str) -> None:
    if given is not None:
        raise ValueError(f"lengths is for padded 3-D input, but came with {given_with}")


def equal_heads(weights_hh: Sequence[Tensor]) -> None:
    """Require the same number and size of heads in every layer and direction."""
    shape = weights_hh[0].shape
    for other in weights_hh[1:]:
        if other.shape != shape:
            raise ValueError(
                "weight_hh must have the same shape, [H, H] or [n, H/n, H/n], in all layers and "
                f"directions, got {list(shape)} and {list(other.shape)}"
            )


def mode_of(activation: str) -> str:
    """Return nn.RNN's mode with this activation."""
    if activation not in RNN_MODES:
        raise ValueError(f"activation must be 'tanh' or 'relu', got {activation!r}")
    return RNN_MODES[activation]


def rnn(input: Tensor, weights: Sequence[Tensor], ragged: Ragged, options: Options) -> None:
    """Check the arguments of `functional.rnn`, `lstm` and `gru`."""
    runs, per_direction = options.num_layers * options.directions(), 4 if options.bias else 2
    if len(weights) != runs * per_direction:
        raise ValueError(
            f"expected {runs * per_direction} weights, {per_direction} per layer and direction, "
            f"got {len(weights)}"
        )
    equal_heads(weights[1::per_direction])
    *_, rows, size = weights[1].shape
    gates = CELLS[CODES[options.mode]].gates
    if rows != gates * size:
        width = "" if gates == 1 else f"{gates}·"
        raise ValueError(
            f"weight_hh must be [{width}H, H] or [n, {width}H/n, H/n] for {options.mode}, "
            f"got {list(weights[1].shape)}"
        )
    if ragged.is_packed() and ragged.lengths is None:
        raise ValueError(_OFFSETS_ALONE)
    if ragged.resets is not None:
        resets(ragged.resets, input.shape[: 1 if ragged.is_packed() else 2], input.device)


def recurrence(pre: Tensor, given: Arguments) -> None:
    """Check the arguments of `functional.recurrence` and of its gated forms."""
    lengths, offsets, begins = given.ragged()
    packed, gates = offsets is not None, CELLS[given.mode].gates
    if pre.dim() != (3 if packed else 4):
        wanted = "[N, G, K·H] with" if packed else "[T, B, G, K·H] without"
        raise ValueError(f"pre must be {wanted} offsets, K = {gates}, got {list(pre.shape)}")
    if not (pre.is_floating_point() or pre.is_complex()):
        raise ValueError(f"pre must be floating point, got {pre.dtype}: use pre.float()")
    groups, hidden = pre.shape[-2], pre.shape[-1] // gates
    if groups == 0 or hidden == 0 or (not packed and pre.shape[0] == 0):
        raise ValueError(f"T, G and H must be at least 1, got pre of shape {list(pre.shape)}")
    if pre.shape[-1] != gates * hidden:
        raise ValueError(f"pre's last dimension must be {gates}·H, got shape {list(pre.shape)}")
    h0 = given.h0
    batch = h0.shape[0] if packed and h0.dim() > 0 else pre.shape[1]
    _real(pre, given, batch, hidden)
    _indices(lengths=lengths, offsets=offsets)
    for name, index in (("lengths", lengths), ("offsets", offsets)):
        if index is not None and index.device != pre.device:
            raise ValueError(f"{name} must be on pre's device {pre.device}, got {index.device}")
    if packed and lengths is None:
        raise ValueError(_OFFSETS_ALONE)
    if lengths is not None and lengths.shape[0] != batch:
        raise ValueError(f"lengths must be [B] = [{batch}], got {list(lengths.shape)}")
    if begins is not None:
        resets(begins, pre.shape[:1] if packed else pre.shape[:2], pre.device)
    if not 0 <= given.reverse_from <= groups:
        raise ValueError(
            f"reverse_from must be between 0 and G = {groups}, got {given.reverse_from}"
        )


def _real(pre: Tensor, given: Arguments, batch: int, hidden: int) -> None:
    """Check the shapes, dtypes and devices of the real arguments."""
    *_, groups, width = pre.shape
    state = [batch, groups, hidden]
    expected = (
        ("weight_hh", given.weight_hh, [groups, width, hidden]),
        ("h0", given.h0, state),
        ("c0", given.c0, state),
        ("bias_hn", given.unit_param, [groups, hidden]),
        ("reset_h", given.reset_h, state),
        ("reset_c", given.reset_c, state),
    )
    for name, x, shape in expected:
        if x is None:
            continue
        if list(x.shape) != shape:
            raise ValueError(
                f"{name} must be {_SYMBOLS[name]} = {shape} to fit pre, got {list(x.shape)}"
            )
        if x.dtype != pre.dtype:
            raise ValueError(f"{name} must have pre's dtype {pre.dtype}, got {x.dtype}")
        if x.device != pre.device:
            raise ValueError(f"{name} must be on pre's device {pre.device}, got {x.device}")


_SYMBOLS = {
    "weight_hh": "[G, K·H, H]",
    "bias_hn": "[G, H]",
    **dict.fromkeys(("h0", "c0", "reset_h", "reset_c"), "[B, G, H]"),
}


def _indices(**given: Tensor | None) -> None:
    for name, index in given.items():
        if index is not None and (
            index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool
        ):
            raise ValueError(
                f"{name} must be a 1-D integer tensor, got shape {list(index.shape)} "
                f"of {index.dtype}"
            )
