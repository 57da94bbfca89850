"""A layer of ours beside the torch layer it stands in for, and what the tests ask of both."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn import FusedRNN, FusedRNNCell

TORCH = {FusedRNN: nn.RNN, FusedRNNCell: nn.RNNCell}

#: Bounds on |ours - float64|, in units of eps = torch.finfo(dtype).eps and of the larger of 1 and
#: the largest value compared. A step rounds its pre-activation (|z| <= 2 here) and its state, so
#: adds 1.5 eps; W_hh from U(-1/sqrt(H), 1/sqrt(H)) has a spectral radius near 1/sqrt(3), so errors
#: do not grow with T but sum to 2.4 of that, 3.6 eps; two layers double it. A gradient passes the
#: same steps again, and its weight gradients sum rounded products of rounded states.
FORWARD_EPS = 8
BACKWARD_EPS = 16


def twins(
    *args: Any, ours: type[nn.Module] = FusedRNN, seed: int = 0, **kwargs: Any
) -> tuple[Any, Any]:
    """One of ours and torch's, with the same weights."""
    torch.manual_seed(seed)
    theirs = TORCH[ours](*args, **kwargs)
    mine = ours(*args, **kwargs)
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def tensors(result: Any) -> list[Tensor]:
    """The differentiable tensors of (output, h_n), of a state, or of a PackedSequence."""
    if isinstance(result, PackedSequence):
        return [result.data]
    return [result] if isinstance(result, Tensor) else [t for part in result for t in tensors(part)]


def gradients(result: Any, wanted: Iterable[Tensor], seed: int = 1) -> list[Tensor]:
    """Gradients of a weighted sum of all of result: no two of its elements weigh the same."""
    generator = torch.Generator().manual_seed(seed)
    loss = torch.zeros((), dtype=torch.float64)
    for t in tensors(result):
        weight = torch.randn(t.shape, generator=generator, dtype=torch.float64)
        loss = loss + (t.double() * weight).sum()
    return list(torch.autograd.grad(loss, list(wanted)))


def assert_same(actual: Any, expected: Any) -> None:
    """Equal but for the order of summation in float64."""
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def assert_near(actual: Tensor, expected_float64: Tensor, eps: int) -> None:
    """Within eps roundings of the dtype: see the bounds above."""
    scale = max(1.0, expected_float64.abs().max().item())
    atol = eps * torch.finfo(actual.dtype).eps * scale
    torch.testing.assert_close(actual.double(), expected_float64, rtol=0, atol=atol)


def outcome(call: Callable[[], Any]) -> tuple[type, str]:
    """What a call raises: its type and words."""
    try:
        result = call()
    except Exception as error:
        return type(error), str(error)
    return type(result), ""
