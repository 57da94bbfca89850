"""The gradients of large layers, whose products run in other ways than those of small ones."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastrnn
from fastrnn.testing import relative_tolerance

from ..utils.marks import requires_extension

pytestmark = requires_extension

T, B, I, H = 30, 7, 21, 24  # noqa: E741 (more than 2^16 multiply-adds, T B more than a part of a sum)
LAYERS: dict[str, Any] = {
    "RNN": fastrnn.FusedRNN,
    "LSTM": fastrnn.FusedLSTM,
    "GRU": fastrnn.FusedGRU,
    "leak": lambda *sizes, **kwargs: fastrnn.FusedRNN(
        *sizes, leak=0.3, learned_leak=True, **kwargs
    ),
}


def gradients(layer: Any, x: Tensor, weight: Tensor, **given: Any) -> dict[str, Tensor]:
    layer.zero_grad()
    x = x.detach().requires_grad_()
    (layer(x, **given)[0] * weight).sum().backward()
    return {"x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        pytest.param(torch.float32, marks=pytest.mark.exhaustive),  # as float64
        torch.bfloat16,
        torch.float16,
    ],
    ids=str,
)
@pytest.mark.parametrize("ragged", ["dense", "lengths", "resets"])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True}, {"num_heads": 2}],
    ids=str,
)
@pytest.mark.parametrize("name", LAYERS)
def test_large_layers_against_the_reference(name, options, ragged, dtype):
    layer = LAYERS[name](I, H, dtype=dtype, **options)
    exact = LAYERS[name](I, H, dtype=torch.float64, **options)
    exact.load_state_dict(layer.state_dict())
    shape = (B, T) if options.get("batch_first") else (T, B)
    x = torch.randn(*shape, I).to(dtype)
    weight = torch.randn(*shape, H * (2 if options.get("bidirectional") else 1)).to(dtype)
    given: dict[str, Tensor] = {}
    if ragged == "lengths":
        given["lengths"] = torch.tensor([30, 0, 7, 1, 29, 12, 30])
    if ragged == "resets":
        given["resets"] = torch.rand(shape) < 0.1
    actual = gradients(layer, x, weight, **given)
    with fastrnn.use_backend("reference"):
        expected = gradients(exact, x.double(), weight.double(), **given)
    tolerance = relative_tolerance(dtype, I + 2 * H, T, T * B)[1] * options.get("num_layers", 1)
    for key, gradient in actual.items():
        assert gradient.dtype == dtype
        error = (gradient.double() - expected[key]).norm() / expected[key].norm()
        assert error <= tolerance, key


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_sum_over_many_rows(dtype):
    """A sum of parts' sums, each of 512 rows."""
    layer, x = fastrnn.FusedGRU(1, 2, dtype=dtype), torch.randn(600, 9, 1, dtype=dtype)
    exact = fastrnn.FusedGRU(1, 2, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    weight = torch.randn(600, 9, 2, dtype=dtype)
    actual = gradients(layer, x, weight)
    expected = gradients(exact, x.double(), weight.double())
    for key, gradient in actual.items():
        error = (gradient.double() - expected[key]).norm() / expected[key].norm()
        assert error <= relative_tolerance(dtype, 5, 600, 5400)[1], key
