"""torch.set_float32_matmul_precision("medium"): with Intel AMX, products of bfloat16 in float32."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fastrnn
from fastrnn.ops.arguments import State
from fastrnn.ops.backends import cpu
from fastrnn.ops.cells import CELLS, CODES
from fastrnn.testing import relative_tolerance

from ..utils.marks import requires_extension

T, B, I, H = 12, 5, 9, 35  # noqa: E741
LAYERS: dict[str, Any] = {
    "RNN_TANH": fastrnn.FusedRNN,
    "LSTM": fastrnn.FusedLSTM,
    "GRU": fastrnn.FusedGRU,
    "LEAKY_TANH": lambda *sizes, **options: fastrnn.FusedRNN(*sizes, leak=0.3, **options),
}

pytestmark = requires_extension
with_amx = pytest.mark.skipif(
    not cpu.multiplies_bfloat16(), reason="the kernels in use do not multiply bfloat16"
)


@pytest.fixture(autouse=True)
def _medium() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def rounded(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).double()


def by_rounded_factors(layer: Any, x: Tensor) -> Tensor:
    """Compute the output in float64, with factors rounded to bfloat16."""
    cell = CELLS[CODES[layer._cell]]
    weight_ih, weight_hh, b_ih, b_hh, *leak = (w.detach().double() for w in layer._weights())
    unit_param = leak[0][None] if leak else None
    if cell.mode == "GRU":
        unit_param = b_hh[None, 2 * H :]
        b_hh = torch.cat((b_hh[: 2 * H], torch.zeros(H, dtype=torch.float64)))
    zeros = torch.zeros(B, 1, H, dtype=torch.float64)
    state, outputs = State(zeros, zeros if cell.has_c else None), []
    for step in x:
        pre = rounded(step) @ rounded(weight_ih).mT + b_ih + b_hh
        # As in the kernels, a state is a number of float32 before it is rounded to bfloat16.
        z = rounded(state.h[:, 0].float()) @ rounded(weight_hh).mT
        state = cell.forward(pre[:, None], z[:, None], state, unit_param, lambda c: c).state
        outputs.append(state.h[:, 0])
    return torch.stack(outputs)


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@with_amx
@pytest.mark.parametrize("mode", LAYERS)
def test_only_the_factors_are_rounded(mode: str) -> None:
    layer, x = LAYERS[mode](I, H), torch.randn(T, B, I)
    exact = LAYERS[mode](I, H, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    with torch.no_grad():
        output, last = layer(x)
        with fastrnn.use_backend("reference"):
            truth = exact(x.double())[0]
    assert torch.equal((last[0] if isinstance(last, tuple) else last)[0], output[-1])
    # A few states are so close to the middle of two bfloat16 numbers that they round the other way.
    assert error(output, by_rounded_factors(layer, x)) < error(output, truth) / 20
    assert error(output, truth) < relative_tolerance(torch.bfloat16, I + H, T, T * B)[0]


@with_amx
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"num_heads": 5}], ids=str)
@pytest.mark.parametrize("mode", LAYERS)
def test_gradients_have_the_accuracy_of_bfloat16(mode: str, options: dict[str, Any]) -> None:
    layer = LAYERS[mode](I, H, **options)
    exact = LAYERS[mode](I, H, dtype=torch.float64, **options)
    exact.load_state_dict(layer.state_dict())
    x, weight = torch.randn(T, B, I), torch.randn(T, B, H)
    found = []
    for each, dtype in ((layer, torch.float32), (exact, torch.float64)):
        leaf = x.detach().clone().to(dtype).requires_grad_()
        with fastrnn.use_backend("reference" if each is exact else "auto"):
            (each(leaf)[0] * weight.to(dtype)).sum().backward()
        found.append([leaf.grad, *(p.grad for p in each.parameters())])
    for actual, expected in zip(*found, strict=True):
        bound = relative_tolerance(torch.bfloat16, I + 2 * H, T, T * B)[1]
        assert error(actual, expected) < bound * options.get("num_layers", 1)


@with_amx
@pytest.mark.parametrize("mode", LAYERS)
def test_bits_do_not_depend_on_the_batch_and_the_steps(mode: str) -> None:
    layer, x = LAYERS[mode](I, H), torch.randn(T, 40, I)
    with torch.no_grad():
        output, _ = layer(x)
        h: Any = None
        for t in range(T):
            out, h = layer.step(x[t, 7:9], h)
            assert torch.equal(out, output[t, 7:9])


@with_amx
def test_the_backward_rounds_as_the_forward_did() -> None:
    layer, x = fastrnn.FusedRNN(I, H), torch.randn(T, B, I, requires_grad=True)

    def run(change: Callable[[], None]) -> Tensor:
        torch.set_float32_matmul_precision("medium")
        output, _ = layer(x)
        change()
        return torch.autograd.grad(output.square().sum(), x)[0]

    medium = run(lambda: None)
    assert torch.equal(run(lambda: torch.set_float32_matmul_precision("highest")), medium)


@pytest.mark.skipif(cpu.multiplies_bfloat16(), reason="the kernels in use multiply bfloat16")
def test_other_kernels_do_not_round() -> None:
    layer, x = fastrnn.FusedLSTM(I, H), torch.randn(T, B, I)
    with torch.no_grad():
        medium = layer(x)[0]
        torch.set_float32_matmul_precision("highest")
        assert torch.equal(layer(x)[0], medium)
