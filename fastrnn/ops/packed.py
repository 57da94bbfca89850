"""Where the rows of a PackedSequence lie: what the recurrence is told of it.

The work is done on the CPU, where ``batch_sizes`` are, and in numbers that torch.compile cannot
trace; so there is an operator for it, ``fastrnn::packed_layout``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .recurrence import LIBRARY

_SCHEMA = (
    "(Tensor batch_sizes, SymInt rows, SymInt? batch, Device device) "
    "-> (Tensor lengths, Tensor offsets)"
)


def packed_layout(
    batch_sizes: Tensor, rows: int, batch: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A PackedSequence's lengths [B] and offsets [T], on data's device.

    Nothing here waits for that device. Kernels trust the result with their memory accesses: a
    PackedSequence made by hand is checked.

    Args:
        batch_sizes: [T] integers on the CPU.
        rows: N, of its data.
        batch: B where another tensor tells, or None: compiled code goes by it.
        device: of its data.

    Raises:
        ValueError: the batch sizes do not begin with B, or do not descend, or do not sum to N.
    """
    if torch.compiler.is_compiling():
        return torch.ops.fastrnn.packed_layout.default(batch_sizes, rows, batch, device)
    return _packed_layout(batch_sizes, rows, batch, device)


def _packed_layout(
    batch_sizes: Tensor, rows: int, batch: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    ends = batch_sizes.cumsum(0)
    first = int(batch_sizes[0])
    descending = bool((batch_sizes[1:] <= batch_sizes[:-1]).all()) and int(batch_sizes[-1]) >= 0
    if not descending or int(ends[-1]) != rows:
        raise ValueError(
            "a PackedSequence's batch_sizes must be in descending order and sum to its "
            f"{rows} rows of data; make one with torch.nn.utils.rnn.pack_padded_sequence"
        )
    if batch is not None and batch != first:
        raise ValueError(
            f"a PackedSequence of {first} sequences came with indices or an hx of {batch}; "
            "make one with torch.nn.utils.rnn.pack_padded_sequence"
        )
    steps = batch_sizes.shape[0]
    # Row b is active at the steps whose batch size exceeds b.
    number = torch.arange(first, dtype=batch_sizes.dtype)
    lengths = steps - torch.searchsorted(batch_sizes.flip(0), number, right=True)
    both = torch.cat((lengths, ends - batch_sizes)).to(device, non_blocking=True)
    return both[:first], both[first:]


def _fake(
    batch_sizes: Tensor, rows: int, batch: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    first = torch.library.get_ctx().new_dynamic_size(min=0) if batch is None else batch
    lengths = batch_sizes.new_empty((first,), device=device)
    return lengths, batch_sizes.new_empty(batch_sizes.shape, device=device)


def _apart(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Results that share no memory, as an operator's must not."""
    lengths, offsets = _packed_layout(*arguments)
    return lengths.clone(), offsets.clone()


LIBRARY.define("packed_layout" + _SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
# Where torch.compile breaks its graph all the same, it is not to trace this either.
LIBRARY.impl("packed_layout", torch._disable_dynamo(_apart), "CompositeExplicitAutograd")
torch.library.register_fake("fastrnn::packed_layout", _fake, lib=LIBRARY)
