"""Compare our layers with the torch layers that they replace."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fastrnn import FusedGRU, FusedGRUCell, FusedLSTM, FusedLSTMCell, FusedRNN, FusedRNNCell

#: Our layers and cells, and those of torch that they replace.
LAYERS: dict[Any, Any] = {FusedRNN: nn.RNN, FusedLSTM: nn.LSTM, FusedGRU: nn.GRU}
CELLS: dict[Any, Any] = {
    FusedRNNCell: nn.RNNCell,
    FusedLSTMCell: nn.LSTMCell,
    FusedGRUCell: nn.GRUCell,
}
TORCH = LAYERS | CELLS

#: Marks of a test that takes the class of a layer or cell as its argument ``ours``. Where layers
#: share the tested code, the GRU, which adds nothing to the LSTM, runs in the exhaustive tests. In
#: slow tests of what all cells share, the LSTM does so too.
every_layer = pytest.mark.parametrize("ours", LAYERS)
every_cell = pytest.mark.parametrize("ours", CELLS)
rnn_and_lstm = pytest.mark.parametrize(
    "ours", [FusedRNN, FusedLSTM, pytest.param(FusedGRU, marks=pytest.mark.exhaustive)]
)
mostly_rnn = pytest.mark.parametrize(
    "ours",
    [
        FusedRNN,
        pytest.param(FusedLSTM, marks=pytest.mark.exhaustive),
        pytest.param(FusedGRU, marks=pytest.mark.exhaustive),
    ],
)

#: Bounds on |ours - float64|, in units of eps = torch.finfo(dtype).eps times the larger of 1 and
#: the largest compared value. A step rounds its pre-activation (|z| <= 2 here) and its state, which
#: adds 1.5 eps. W_hh from U(-1/sqrt(H), 1/sqrt(H)) has a spectral radius near 1/sqrt(3). Errors
#: therefore do not grow with T, but sum to 2.4 times that, 3.6 eps. Two layers double it. A
#: gradient passes the same steps again, and weight gradients sum rounded products of such states.
#: An LSTM and a GRU round more values in a step, but pass each error on with a smaller factor: the
#: derivative of a gate is at most 1/4, and gates are near 1/2 here. So the bounds hold for all.
FORWARD_EPS = 8
BACKWARD_EPS = 16


def paired_layers(
    *args: Any, ours: type[nn.Module] = FusedRNN, seed: int = 0, **kwargs: Any
) -> tuple[Any, Any]:
    """Return one of our layers and torch's layer, with the same weights; see `options_for`."""
    torch.manual_seed(seed)
    kwargs = options_for(ours, kwargs)
    theirs = TORCH[ours](*args, **kwargs)
    mine = ours(*args, **kwargs)
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def options_for(ours: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without those that another kind of layer lacks: nonlinearity."""
    if ours in (FusedRNN, FusedRNNCell):
        return options
    return {name: value for name, value in options.items() if name != "nonlinearity"}


def random_hx(layer: Any, *batch: int, **options: Any) -> Any:
    """Return a random hx of a layer or cell: a tensor [D·L, *batch, H], or the LSTM's pair."""
    size = *batch, layer.hidden_size
    if isinstance(layer, nn.RNNBase):
        size = layer.num_layers * (2 if layer.bidirectional else 1), *size
    options = {"dtype": torch.float64, **options}
    states = [torch.randn(size, **options) for _ in range(count_states(layer))]
    return tuple(states) if len(states) > 1 else states[0]


def count_states(layer: Any) -> int:
    """Return 2 for an LSTM, which has h and c, and 1 for other layers and cells."""
    return 2 if isinstance(layer, (FusedLSTM, nn.LSTM, nn.LSTMCell)) else 1


def each_state(function: Callable[[Tensor], Any], hx: Any) -> Any:
    """Apply a function to an hx, or to each of a pair."""
    return tuple(map(function, hx)) if isinstance(hx, tuple) else function(hx)


def tensors(result: Any) -> list[Tensor]:
    """Return the differentiable tensors of (output, h_n), an hx or a PackedSequence."""
    if result is None:
        return []
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
