"""All private torch APIs that fastrnn uses, in one place.

A canary test, tests/ops/test_torch_private.py, calls every name and reports which ones a torch
release has changed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._functorch.autograd_function import (
    enable_single_level_autograd_function as single_level,
)
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction as SingleLevelFunction

__all__ = ["SingleLevelFunction", "single_level"]

#: Context manager below autograd: autograd does not record operators.
below_autograd = torch._C._AutoDispatchBelowAutograd

#: Like `below_autograd`, and views are not tracked either. A result that is a view of memory with
#: no other owner then allows in-place writes like any other tensor.
below_views = torch._C._AutoDispatchBelowADInplaceOrView

#: Context manager that enables or disables forward-mode differentiation.
set_forward_mode = forward_ad._set_fwd_grad_enabled

#: Keep Dynamo from tracing a function.
disable_dynamo = torch._disable_dynamo

#: An assertion that runs on the device without a synchronization.
assert_async = torch._assert_async

#: Whether forward-mode differentiation is enabled.
is_forward_mode = torch._C._is_fwd_grad_enabled

#: Whether autocast is enabled for any device.
is_any_autocast = torch._C._is_any_autocast_enabled

#: Make a copy-on-write copy.
lazy_clone = torch._lazy_clone

#: Whether the running backward pass keeps its graph (``retain_graph=True``).
keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph

#: The dispatch keys below autograd.
below_autograd_keys = torch._C._after_autograd_keyset


def builtin(operator: Any) -> Callable[..., Any]:
    """Return the function that calling an operator runs: a Python frame less, 0.4 µs."""
    return operator._op


def apply_outside_transforms(function: type[torch.autograd.Function]) -> Any:
    """Return ``function.apply`` without its support for torch.func, which takes 3 µs a call."""
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def is_transforming() -> bool:
    """Whether torch.func or forward-mode differentiation is active, for any tensor."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_batched(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of many, as within torch.autograd.grad(is_grads_batched=True)."""
    return torch._C._functorch.is_legacy_batchedtensor(tensor)


def has_mkldnn_products(dtype: str) -> bool:
    """Whether oneDNN has "bf16" or "fp16" matrix products on this processor."""
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{dtype}_supported")
    return torch.backends.mkldnn.is_available() and supported()


@functools.cache
def has_bfloat16_products() -> bool:
    """Whether this processor multiplies bfloat16 numbers: AVX512_BF16, or Intel's AMX."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """Make torch compute without oneDNN. torch.backends.mkldnn.flags warns of TF32."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def is_expanded_weight(x: object) -> bool:
    """Whether x is an ExpandedWeight, which wraps a parameter to compute per-sample gradients."""
    from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight

    return isinstance(x, ExpandedWeight)


def statically_known_true(condition: Any) -> bool:
    """Whether a condition on sizes holds in every run of the graph that is being traced."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true as known

    return known(condition)
