"""The layer operators of csrc/cuda against those for the CPU in float64."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fastrnn.ops.backends import cuda
from fastrnn.ops.composite_layer import STATES
from fastrnn.testing import error_scale, relative_tolerance
from tests.ops.test_composite_layer import CELLS_OF, EVERYTHING, RAGGED, Call, resized
from tools.gpu_validation.small_calls import moved

from .device import FLOAT64, MODES, precision

BACKEND = "cuda"  # the backend in the summary

MODES_HERE = {**MODES, **FLOAT64}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bias": False},
    {"num_layers": 3},  # one launch
)

#: (T, B, I, H): sizes that are not whole tiles; many steps, whose sums a cluster shares; more units
#: than `rows` serves; weights so large that torch's products compute their gradients, with each
#: strategy of the plan.
SIZES = ((6, 3, 5, 8), (300, 9, 20, 50), (9, 3, 5, 150), (20, 64, 300, 200), (9, 40, 700, 520))
SMALL = SIZES[:3]


def in_dtype(given: Any, dtype: torch.dtype) -> Any:
    """Round all real tensors of nested sequences."""
    if isinstance(given, Tensor):
        return given.to(dtype) if given.is_floating_point() else given
    if isinstance(given, list | tuple):
        return type(given)(in_dtype(x, dtype) for x in given)
    return given


def check(
    actual: list[Tensor], expected: list[Tensor], call: Call, bound: float, summed: int
) -> None:
    for got, wanted in zip(actual, expected, strict=True):
        error = float((got.cpu().double() - wanted).norm())
        assert error <= bound * error_scale(wanted, summed), (call.mode, tuple(wanted.shape))


@pytest.mark.parametrize("with_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("mode", MODES_HERE)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS_OF)
def test_equal_the_operators_for_cpus(
    cell: str,
    sizes: tuple[int, int, int, int],
    mode: str,
    with_hx: bool,
    device: torch.device,
) -> None:
    dtype = MODES_HERE[mode].dtype
    is_small = sizes in SMALL
    kinds, layouts = (KINDS, RAGGED) if is_small else (KINDS[:2], RAGGED[:1])
    for kind, layout in itertools.product(kinds, layouts):
        call = resized(Call(cell, dict(kind), layout, with_hx), sizes)
        if cell == "LEAKY_PRE_TANH" and call.c0 is not None:
            call.h0 = call.c0.tanh()  # the second state is the leaky pre-activation
        needs = EVERYTHING if with_hx else EVERYTHING & ~STATES
        given = in_dtype(call.forward(), dtype)
        exact = in_dtype(given, torch.float64)
        steps, batch, inputs, hidden = sizes
        size = hidden + max(inputs, 2 * hidden), steps, call.x[..., 0].numel() * hidden
        with precision(mode) as products:
            *rest, _, save = moved(given, device)
            rest.append(cuda.allows_tf32(rest[0]))
            results = torch.ops.fastrnn.layer(*rest, save)
            bounds = relative_tolerance(dtype, *size, mode=products.products)
            # Further layers, and a leak, multiply the number of roundings.
            of_output, of_gradient = (4 * max(1, call.layers - 1) * bound for bound in bounds)
            expected = torch.ops.fastrnn.layer(*exact)
            check(results, expected, call, of_output, 1)
            backward = call.backward([x.cpu().double() for x in results], needs)
            there = moved(in_dtype(backward, dtype), device)
            gradients = torch.ops.fastrnn.layer_backward(*there[:-2], rest[-1], needs)
        wanted = torch.ops.fastrnn.layer_backward(
            *in_dtype(in_dtype(backward, dtype), torch.float64)
        )
        check(gradients, wanted, call, of_gradient, steps * batch)
