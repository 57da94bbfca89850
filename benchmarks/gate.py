"""The gate before every timing: a wrong result has no time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastrnn.testing import error_scale, relative_tolerance

from .modes import MODES
from .task import Task


def check(results: Sequence[Tensor], task: Task) -> None:
    """Hold what a call with the task's first inputs returned to the truth, each by its norm.

    Raises:
        AssertionError: it is farther from it than a correct layer can be; says which and how far.
    """
    work, mode = task.work, MODES[task.case.mode]
    products = mode.products if task.device.type == "cuda" else None
    terms = work.H + (work.I if task.case.scope == "layer" else 0)
    output, gradient = relative_tolerance(
        mode.dtype, terms, task.steps, task.steps * work.B * work.H, work.activation, products
    )
    truth = task.truth
    grad = task.inputs[0].grad
    arriving = float(grad.double().square().mean().sqrt())
    assert len(results) == len(truth), f"{len(results)} results instead of {len(truth)}"
    for index, (actual, expected) in enumerate(zip(results, truth, strict=True)):
        is_gradient = index > 0 or task.case.step == "backward"
        what = f"gradient {index}" if is_gradient else "the output"
        assert actual.shape == expected.shape, f"{what} is {actual.shape}, not {expected.shape}"
        assert actual.dtype == mode.dtype, f"{what} is {actual.dtype}, not {mode.dtype}"
        bound = work.layers * (gradient if is_gradient else output)
        expected = expected.detach()
        # Weights' gradients sum over all rows of all steps what arrived there, times h or x.
        of_a_weight = index == 2 or (index > 2 and task.case.scope == "layer")
        summed = task.steps * work.B if of_a_weight else 1
        scale = error_scale(expected, summed, arriving)
        error = float((actual.detach().double() - expected).norm()) / scale
        assert error <= bound, f"{what} is {error:.2g} of its norm off, more than {bound:.2g}"
