"""The products of the weights' gradients: torch's, but for half precision on many CPUs.

Where oneDNN has no products in half precision for a processor, torch multiplies element by element
and takes up to a hundred times as long as in float32. There the factors are widened first, a part
at a time. The sums are float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ._torch_private import has_mkldnn_products

#: Rows widened at once: enough for a product to be worth its call, few enough for the cache.
PART = 4096


def outer(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Sum of a b^T over all rows of all pairs: a [..., G, H] and b [..., G, K] -> [G, H, K].

    Of one group they may be [rows, H] and [rows, K].
    """
    total: Tensor | None = None
    dtype = pairs[0][0].dtype
    slow = is_slow(pairs[0][0])
    for pair in pairs:
        factors = _by_group(pair[0]), _by_group(pair[1])
        for a, b in _parts(*factors) if slow else (factors,):
            if a.dim() == 2:
                total = torch.mm(a.t(), b) if total is None else torch.addmm(total, a.t(), b)
            elif total is None:
                total = torch.bmm(a.mT, b)
            else:
                total = torch.baddbmm(total, a.mT, b)
    assert total is not None  # there is a pair
    if total.dim() == 2:
        total = total[None]
    return total.to(dtype) if slow else total


def _by_group(x: Tensor) -> Tensor:
    """[..., G, H] -> [G, rows, H]; of one group [rows, H], since batches of one are slower."""
    # Not flatten: reshape can be batched, as torch.autograd.grad(is_grads_batched=True) needs.
    if x.dim() == 2:
        return x
    *_, groups, size = x.shape
    if groups == 1:
        return x.reshape(-1, size)
    return x.reshape(-1, groups, size).transpose(0, 1)


def _parts(a: Tensor, b: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """The factors, [..., rows, H] and [..., rows, K], as they are multiplied."""
    if isinstance(a.shape[-2], torch.SymInt):  # in parts, a graph would not serve every length
        return ((a.float(), b.float()),)
    parts = zip(a.split(PART, -2), b.split(PART, -2), strict=True)
    return ((one.float(), other.float()) for one, other in parts)


def is_slow(x: Tensor) -> bool:
    """Whether torch would take far longer for a product of its dtype than in float32."""
    return x.is_cpu and x.dtype in _SLOW


def _slow() -> Iterator[torch.dtype]:
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float16, "fp16")):
        if not has_mkldnn_products(name):
            yield dtype


#: What oneDNN does not multiply on this processor. Known before a graph is traced.
_SLOW = frozenset(_slow())
