"""The layer operators of csrc/cuda on CPU tensors, with emulated kernels: see operators.py there.

They must compute what the operators for CPU tensors do. Their launches are counted.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastrnn.ops import composite_layer
from fastrnn.ops.backends import cpu
from fastrnn.ops.backends.cuda import STRATEGIES
from fastrnn.ops.cells import CODES
from tests.emulators.cuda.operators import operators
from tests.ops.test_composite_layer import CELLS_OF, EVERYTHING, KINDS, RAGGED, Call
from tests.utils.marks import requires_extension

pytestmark = [requires_extension, pytest.mark.slow]

STEP, CLUSTER = STRATEGIES.index("step"), STRATEGIES.index("cluster")


def check_equal(actual: list[torch.Tensor], expected: list[torch.Tensor], atol: float) -> None:
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


def check(call: Call, needs: int, atol: float = 1e-12, products: bool = False) -> tuple[int, int]:
    """Compare the operators; return the launches of forward and backward."""
    emulated, on_cpu = operators(), torch.ops.fastrnn
    results = emulated.layer(*call.forward())
    forward = emulated.launches()
    check_equal(results, on_cpu.layer(*call.forward()), atol)
    given = call.backward(results, needs)
    gradients = emulated.layer_backward(*given)
    backward = emulated.launches() - forward
    check_equal(gradients, on_cpu.layer_backward(*given), atol)
    return forward, backward


def consistent(call: Call) -> Call:
    """Return a call whose h0 belongs to c0: the leaky pre-activation is c, and h is its tanh."""
    if call.mode == CODES["LEAKY_PRE_TANH"] and call.c0 is not None:
        call.h0 = call.c0.tanh()
    return call


@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("ragged", RAGGED)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("mode", CELLS_OF)
def test_equal_the_operators_for_cpus(mode, kind, ragged, with_hx):
    if kind.get("num_heads") and mode in ("LSTM", "GRU"):
        pytest.skip("the operators do not serve heads of several gates")
    call = consistent(Call(mode, kind, ragged, with_hx))
    operators().reset(STEP, 7)
    check(call, EVERYTHING if with_hx else EVERYTHING & ~composite_layer.STATES)


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("mode", CELLS_OF)
def test_a_single_gradient(mode, which):
    call = consistent(Call(mode, {"bidirectional": True}, "lengths", with_hx=True))
    operators().reset(STEP, 7)
    check(call, 1 << which)


@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    ("mode", "kind"),
    [("LSTM", {}), ("GRU", {"bidirectional": True}), ("RNN_TANH", {"num_heads": 2})],
)
def test_large_weights_use_products_of_torch(mode, kind, steps, with_hx):
    call = Call(mode, kind, "dense", with_hx)
    batch, wide = 64, sum(w.shape[0] for w in call.weights[:: len(call.weights) // call.directions])
    # Many operations, of which few are emulated.
    inputs = int(cpu.EXTENSION.module.small_weight_products / (2 * wide * steps * batch)) + 1
    call.x = torch.randn(steps, batch, inputs, dtype=torch.float64)
    if call.h0 is not None:
        call.h0 = torch.randn(call.h0.shape[0], batch, call.h0.shape[2], dtype=torch.float64)
        call.c0 = None if call.c0 is None else torch.randn_like(call.h0)
    per_direction = len(call.weights) // call.directions
    for k in range(0, len(call.weights), per_direction):
        rows = call.weights[k].shape[0]
        call.weights[k] = torch.randn(rows, inputs, dtype=torch.float64) / inputs**0.5
    operators().reset(STEP, 7)
    needs = EVERYTHING if with_hx else EVERYTHING & ~composite_layer.STATES
    _, backward = check(call, needs, atol=1e-9)
    small = steps + 1 + call.directions + 1  # recurrence, products with W_ih, all weights
    assert backward > small


def test_an_input_whose_batch_comes_first_is_copied():
    call = Call("LSTM", {}, "dense", with_hx=False)
    call.x = call.x.transpose(0, 1).contiguous().transpose(0, 1)
    operators().reset(STEP, 7)
    check(call, EVERYTHING & ~composite_layer.STATES)


def test_missing_gradients_count_as_zeros():
    call = Call("LSTM", {"num_layers": 2}, "dense", with_hx=True)
    emulated, on_cpu = operators(), torch.ops.fastrnn
    emulated.reset(STEP, 7)
    results = emulated.layer(*call.forward())
    _, grad_h_n, grad_c_n, *given = call.backward(results, EVERYTHING)
    for grads in ((None, grad_h_n, None), (None, None, grad_c_n), (None, None, None)):
        gradients = emulated.layer_backward(*grads, *given)
        check_equal(gradients, on_cpu.layer_backward(*grads, *given), 1e-12)


@pytest.mark.parametrize("mode", ["RNN_TANH", "LSTM"])
@pytest.mark.parametrize("steps", [6, 200])
def test_sums_are_shared_by_a_cluster(mode, steps):
    """With 200 steps, the rows of a weight's gradient are divided among the blocks of a cluster."""
    call = Call(mode, {}, "dense", with_hx=True)
    call.x = torch.randn(steps, 3, call.x.shape[-1])
    call.weights = [w.float() for w in call.weights]
    call.h0 = call.h0.float() if call.h0 is not None else None
    call.c0 = call.c0.float() if call.c0 is not None else None
    operators().reset(CLUSTER, 7)
    check(call, EVERYTHING, atol=2e-4 if steps > 100 else 1e-5)


@pytest.mark.parametrize(
    ("mode", "bidirectional", "forward", "backward"),
    [
        ("RNN_TANH", False, 2, 3),
        ("RNN_TANH", True, 3, 4),
        ("LSTM", False, 2, 3),
        ("LSTM", True, 3, 4),
    ],
)
@pytest.mark.parametrize("inputs", [64, 2000])
def test_launches(mode: str, bidirectional: bool, forward: int, backward: int, inputs: int) -> None:
    """A forward is one product for each direction and one recurrence, or only that.

    A kernel with an input projection needs W_ih in shared memory.
    """
    call: Any = Call(mode, {"bidirectional": bidirectional}, "dense", with_hx=False)
    call.x = torch.randn(5, 3, inputs)
    per_direction = len(call.weights) // call.directions
    for k in range(0, len(call.weights), per_direction):
        call.weights[k] = torch.randn(call.weights[k].shape[0], inputs) / inputs**0.5
    call.weights = [w.float() for w in call.weights]
    forward = 1 if inputs == 64 else forward
    operators().reset(CLUSTER, 7)
    needs = EVERYTHING & ~composite_layer.STATES
    assert check(call, needs, atol=1e-5) == (forward, backward)


@pytest.mark.parametrize("ragged", RAGGED)
@pytest.mark.parametrize("mode", ["RNN_TANH", "LSTM", "GRU"])
@pytest.mark.parametrize("layers", [3, 12])
def test_a_stack_is_one_launch(layers: int, mode: str, ragged: str) -> None:
    """Up to 8 layers are, and then begins the next launch."""
    call: Any = Call(mode, {"num_layers": layers}, ragged, with_hx=True)
    call.x, call.weights = call.x.float(), [w.float() for w in call.weights]
    call.h0, call.c0 = (x if x is None else x.float() for x in (call.h0, call.c0))
    operators().reset(CLUSTER, 7)
    launches = -(-layers // 8)
    forward, backward = check(call, EVERYTHING, atol=1e-5)
    assert forward == launches
    # The recurrences, the product with W_ih of the lowest of them, and the weights.
    assert backward == 3 * launches
