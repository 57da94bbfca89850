"""Verify results before they are timed. A wrong result is reported and not timed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastrnn.testing import error_scale, relative_tolerance

from .precision import MODES
from .workload import Workload


def check(results: Sequence[Tensor], workload: Workload) -> None:
    """Compare the results of a call on the first inputs with the expected results, by their norms.

    Raises:
        AssertionError: the error of a result exceeds its tolerance; names the result and the error.
    """
    shape, mode = workload.shape, MODES[workload.case.mode]
    is_layer = workload.case.scope == "layer"
    products = mode.products if workload.device.type == "cuda" else None
    inputs = shape.I if is_layer else 0
    numbers = workload.steps * shape.B * shape.H
    # A gate sums H + I products. The gradients of h and x sum those of all gates.
    (output, _), (_, gradient) = (
        relative_tolerance(mode.dtype, terms, workload.steps, numbers, shape.activation, products)
        for terms in (shape.H + inputs, shape.of_cell.gates * shape.H + inputs)
    )
    expected_results = workload.expected
    grad = workload.inputs[0].grad
    grad_rms = float(grad.double().square().mean().sqrt())
    assert len(results) == len(expected_results), (
        f"{len(results)} results instead of {len(expected_results)}"
    )
    for index, (actual, expected) in enumerate(zip(results, expected_results, strict=True)):
        is_gradient = index > 0 or workload.case.step == "backward"
        what = f"gradient {index}" if is_gradient else "the output"
        assert actual.shape == expected.shape, f"{what} is {actual.shape}, not {expected.shape}"
        assert actual.dtype == mode.dtype, f"{what} is {actual.dtype}, not {mode.dtype}"
        tolerance = shape.layers * (gradient if is_gradient else output)
        expected = expected.detach()
        # The gradient of a weight sums, over all rows and steps, a gradient times h or x.
        is_of_weight = index == 2 or (index > 2 and is_layer)
        summed = workload.steps * shape.B if is_of_weight else 1
        scale = error_scale(expected, summed, grad_rms)
        error = float((actual.detach().double() - expected).norm()) / scale
        assert error <= tolerance, (
            f"{what} is wrong: relative error {error:.2g}, tolerance {tolerance:.2g}"
        )
