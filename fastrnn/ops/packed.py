"""The layout of a PackedSequence's rows, in the form that the recurrence takes.

The computation runs on the CPU, where ``batch_sizes`` is stored. It depends on the values of
``batch_sizes``, which torch.compile cannot trace, so it is an operator:
``fastrnn::packed_layout``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._torch_private import disable_dynamo
from .recurrence import LIBRARY

_SCHEMA = "(Tensor batch_sizes, Tensor data, SymInt? batch) -> (Tensor lengths, Tensor offsets)"


def packed_layout(batch_sizes: Tensor, data: Tensor, batch: int | None) -> tuple[Tensor, Tensor]:
    """Compute a PackedSequence's lengths [B] and offsets [T], on data's device.

    The function does not synchronize with that device. It validates ``batch_sizes``, which may
    come from a hand-made PackedSequence: kernels use the result for memory accesses.

    Args:
        batch_sizes: [T] integers on the CPU.
        data: [N, ...]; only its size and its device matter.
        batch: B if another tensor determines it, or None. Compiled code relies on it.

    Raises:
        RuntimeError: the batch sizes are not one integer per step, do not start with B, are not
            in descending order, or do not sum to N.
    """
    operator = torch.ops.fastrnn.packed_layout.default
    if torch.compiler.is_compiling():
        return operator(batch_sizes, data.detach(), batch)
    if torch.jit.is_tracing():  # a trace would record the example's batch as a constant
        return operator(batch_sizes, data.detach(), None)
    return _packed_layout(batch_sizes, data, batch)


def _packed_layout(batch_sizes: Tensor, data: Tensor, batch: int | None) -> tuple[Tensor, Tensor]:
    rows = data.shape[0]
    if not _are_valid(batch_sizes, rows):
        raise RuntimeError(
            "a PackedSequence's batch_sizes must be a 1-D tensor of integers, one for each step, "
            f"in descending order, and sum to its {rows} rows of data; "
            "make one with torch.nn.utils.rnn.pack_padded_sequence"
        )
    first = int(batch_sizes[0])
    if batch is not None and batch != first:
        raise RuntimeError(
            f"a PackedSequence of {first} sequences came with indices or an hx of {batch}; "
            "make one with torch.nn.utils.rnn.pack_padded_sequence"
        )
    steps = batch_sizes.shape[0]
    # Row b is active at the steps whose batch size exceeds b.
    number = torch.arange(first, dtype=batch_sizes.dtype)
    lengths = steps - torch.searchsorted(batch_sizes.flip(0), number, right=True)
    offsets = batch_sizes.cumsum(0) - batch_sizes
    both = torch.cat((lengths, offsets)).to(data.device, non_blocking=True)
    return both[:first], both[first:]


def _are_valid(batch_sizes: Tensor, rows: int) -> bool:
    """Whether these are the batch sizes of a PackedSequence with this number of rows."""
    return (
        batch_sizes.dim() == 1
        and batch_sizes.shape[0] > 0
        and not batch_sizes.is_floating_point()
        and bool((batch_sizes[1:] <= batch_sizes[:-1]).all())
        and int(batch_sizes[-1]) >= 0
        and int(batch_sizes.sum()) == rows
    )


def _fake(batch_sizes: Tensor, data: Tensor, batch: int | None) -> tuple[Tensor, Tensor]:
    first = torch.library.get_ctx().new_dynamic_size(min=0) if batch is None else batch
    lengths = batch_sizes.new_empty((first,), device=data.device)
    return lengths, batch_sizes.new_empty(batch_sizes.shape, device=data.device)


def _without_aliases(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Run `_packed_layout` and copy its results: an operator's results must not share memory."""
    lengths, offsets = _packed_layout(*arguments)
    return lengths.clone(), offsets.clone()


LIBRARY.define("packed_layout" + _SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
# Where torch.compile breaks the graph nevertheless, Dynamo must not trace this function either.
LIBRARY.impl("packed_layout", disable_dynamo(_without_aliases), "CompositeExplicitAutograd")
torch.library.register_fake("fastrnn::packed_layout", _fake, lib=LIBRARY)
