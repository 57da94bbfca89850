"""Compare our layers with the torch layers that they replace."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn import FusedRNN, FusedRNNCell

TORCH = {FusedRNN: nn.RNN, FusedRNNCell: nn.RNNCell}

#: Bounds on |ours - float64|, in units of eps = torch.finfo(dtype).eps times the larger of 1 and
#: the largest compared value. A step rounds its pre-activation (|z| <= 2 here) and its state, which
#: adds 1.5 eps. W_hh from U(-1/sqrt(H), 1/sqrt(H)) has a spectral radius near 1/sqrt(3). Errors
#: therefore do not grow with T, but sum to 2.4 times that, 3.6 eps. Two layers double it. A
#: gradient passes the same steps again, and weight gradients sum rounded products of such states.
FORWARD_EPS = 8
BACKWARD_EPS = 16


def paired_layers(
    *args: Any, ours: type[nn.Module] = FusedRNN, seed: int = 0, **kwargs: Any
) -> tuple[Any, Any]:
    """Return one of our layers and torch's layer, with the same weights."""
    torch.manual_seed(seed)
    theirs = TORCH[ours](*args, **kwargs)
    mine = ours(*args, **kwargs)
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def tensors(result: Any) -> list[Tensor]:
    """Return the differentiable tensors of (output, h_n), a state or a PackedSequence."""
    if isinstance(result, PackedSequence):
        return [result.data]
    return [result] if isinstance(result, Tensor) else [t for part in result for t in tensors(part)]


def gradients(result: Any, wanted: Iterable[Tensor], seed: int = 1) -> list[Tensor]:
    """Return the gradients of a sum of all elements of result with distinct random weights."""
    generator = torch.Generator().manual_seed(seed)
    loss = torch.zeros((), dtype=torch.float64)
    for t in tensors(result):
        weight = torch.randn(t.shape, generator=generator, dtype=torch.float64)
        loss = loss + (t.double() * weight).sum()
    return list(torch.autograd.grad(loss, list(wanted)))


def assert_same(actual: Any, expected: Any) -> None:
    """Require equality up to the order of summation in float64."""
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def assert_near(actual: Tensor, expected_float64: Tensor, eps: int) -> None:
    """Require an error of at most `eps` units, as defined for the bounds above."""
    scale = max(1.0, expected_float64.abs().max().item())
    atol = eps * torch.finfo(actual.dtype).eps * scale
    torch.testing.assert_close(actual.double(), expected_float64, rtol=0, atol=atol)


def outcome(call: Callable[[], Any]) -> tuple[type, str]:
    """Return the type and message of the error that a call raises, or its result's type and ""."""
    try:
        result = call()
    except Exception as error:
        return type(error), str(error)
    return type(result), ""
