"""Matrix products of the weight gradients, with a fast path for half precision on CPUs.

Where oneDNN has no half-precision matrix products for a processor, torch multiplies element by
element and is up to a hundred times slower than in float32. There the operands are converted to
float32 first, one chunk at a time. Sums are accumulated in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ._torch_private import has_mkldnn_products

#: Rows converted at a time: enough to amortize the call, few enough to stay in cache.
CHUNK_SIZE = 4096


def outer(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Sum a b^T over all rows of all pairs: a [..., G, H] and b [..., G, K] -> [G, H, K].

    With one group, a and b may also be [rows, H] and [rows, K].
    """
    total: Tensor | None = None
    dtype = pairs[0][0].dtype
    slow = is_slow(pairs[0][0])
    for pair in pairs:
        factors = _by_group(pair[0]), _by_group(pair[1])
        for a, b in _float_chunks(*factors) if slow else (factors,):
            if a.dim() == 2:
                total = torch.mm(a.t(), b) if total is None else torch.addmm(total, a.t(), b)
            elif total is None:
                total = torch.bmm(a.mT, b)
            else:
                total = torch.baddbmm(total, a.mT, b)
    assert total is not None  # there is at least one pair
    if total.dim() == 2:
        total = total[None]
    return total.to(dtype) if slow else total


def _by_group(x: Tensor) -> Tensor:
    """[..., G, H] -> [G, rows, H]; with one group [rows, H], since a batch of one is slower."""
    # Not flatten: reshape supports vmap, which torch.autograd.grad(is_grads_batched=True) needs.
    if x.dim() == 2:
        return x
    *_, groups, size = x.shape
    if groups == 1:
        return x.reshape(-1, size)
    return x.reshape(-1, groups, size).transpose(0, 1)


def _float_chunks(a: Tensor, b: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Split the factors, [..., rows, H] and [..., rows, K], into float32 chunks of rows."""
    if isinstance(a.shape[-2], torch.SymInt):  # chunks would specialize a graph on its length
        return ((a.float(), b.float()),)
    chunks = zip(a.split(CHUNK_SIZE, -2), b.split(CHUNK_SIZE, -2), strict=True)
    return ((a.float(), b.float()) for a, b in chunks)


def is_slow(x: Tensor) -> bool:
    """Whether torch's matrix products in the dtype of x are far slower than in float32."""
    return x.is_cpu and x.dtype in _SLOW_DTYPES


def _slow_dtypes() -> Iterator[torch.dtype]:
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float16, "fp16")):
        if not has_mkldnn_products(name):
            yield dtype


#: Dtypes without oneDNN products on this processor. Computed on import, before a graph is traced.
_SLOW_DTYPES = frozenset(_slow_dtypes())
