"""Random problems, and error bounds of kernels against the float64 reference.

Tests and benchmarks share this module. It needs only torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._rounding import ACTIVATION_ROUNDINGS, UNIT_ROUNDOFF
from .ops.arguments import Arguments, arguments
from .ops.cells import CELLS, CODES
from .ops.cells.base import Cell
from .ops.cells.leaky import LeakyPreTanh
from .ops.ragged import Ragged
from .ops.reference import accumulation_dtype

#: The relative error that the matrix unit adds to a product, by mode of
#: `ops.backends.triton.table`. It truncates a float32 operand to the 10 bits of tf32. Mode float32
#: takes three such products: it omits the product of the two remainders, and truncates each
#: remainder once more.
MATRIX_UNIT = {"half": 0.0, "tf32": 2 * 2.0**-10, "float32": 2 * 2.0**-20}

#: The relative error of the hardware's tanh, by the same modes: PTX ISA, tanh.approx.f32.
HARDWARE_TANH = {"half": 2.0**-11, "tf32": 2.0**-11, "float32": 0.0}


class Tensors(NamedTuple):
    """The tensors of a recurrence."""

    pre: Tensor  #: [T, B, G, H] or [N, G, H]
    weight_hh: Tensor  #: [G, H, H]
    h0: Tensor  #: [B, G, H]
    ragged: Ragged


@dataclass(frozen=True)
class Problem:
    """A random recurrence that its fields reproduce exactly."""

    steps: int
    batch: int
    groups: int
    hidden: int
    layout: str = "dense"  #: "dense", "lengths" or "packed"
    activation: str = "tanh"
    reverse_from: int = 1
    dtype: torch.dtype = torch.float64
    seed: int = 0
    resets: bool = False  #: whether rows begin new sequences at random steps
    #: "LSTM" or "GRU", or with the activation "RNN", "LEAKY" or "LEAKY_PRE", see `ops.cells`.
    kind: str = "RNN"

    @property
    def cell(self) -> type[Cell]:
        """The cell that computes a step."""
        return CELLS[self.options[0]]

    @property
    def options(self) -> tuple[int, int]:
        """The operator's last arguments: the cell's number and reverse_from."""
        mode = self.kind if self.kind in CODES else f"{self.kind}_{self.activation.upper()}"
        return CODES[mode], min(self.reverse_from, self.groups)

    def tensors(self, device: torch.device | str = "cpu") -> Tensors:
        """Return the `inputs` of nn.RNN's cells."""
        pre, arguments = self.inputs(device)
        return Tensors(pre, arguments.weight_hh, arguments.h0, arguments.ragged())

    def inputs(self, device: torch.device | str = "cpu") -> tuple[Tensor, Arguments]:
        """Return pre and the other inputs in the problem's dtype, with weights that do not amplify.

        The absolute values of every row and column of a group's weight_hh sum to less than 1. An
        error in h (forward) or dz (backward) therefore does not grow from step to step, and the
        bound of `tolerance` holds without an exponential in T.

        For a cell with several gates, those of each gate sum to at most w = 0.1, and the second
        gate, which keeps a share of the state, is at most φ = σ(w) = 0.525. So c stays within
        ±1 / (1 - φ) = ±2.1, and errors decay from step to step.

        A leak takes a weighted mean of two terms, neither of which amplifies.
        """
        generator = torch.Generator().manual_seed(self.seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1

        shape, gates = (self.batch, self.groups, self.hidden), self.cell.gates
        weight = uniform(self.groups, gates, self.hidden, self.hidden)
        sums = torch.maximum(weight.abs().sum(2).amax(2), weight.abs().sum(3).amax(2))
        weight *= (0.98 if gates == 1 else 0.1) / sums[..., None, None]
        lengths = offsets = None
        if self.layout != "dense":
            lengths = torch.randint(0, self.steps + 1, (self.batch,), generator=generator)
        if self.layout == "packed":
            assert lengths is not None
            lengths = lengths.sort(descending=True).values
            sizes = (torch.arange(self.steps)[:, None] < lengths).sum(1)
            offsets = sizes.cumsum(0) - sizes
            pre = 2 * uniform(int(sizes.sum()), self.groups, gates, self.hidden)
        else:
            pre = 2 * uniform(self.steps, self.batch, self.groups, gates, self.hidden)
        if gates > 1:
            pre[..., 1, :] -= 2
        pre, weight, h0 = pre.flatten(-2), weight.flatten(1, 2), uniform(*shape)
        resets = None
        if self.resets:
            rows = pre.shape[: pre.dim() - 2]
            resets = torch.rand(*rows, generator=generator) < 0.3
        given: dict[str, Any] = {}
        if self.cell.has_c:
            given["c0"] = uniform(*shape)
        if self.cell.has_unit_param:
            given["unit_param"] = uniform(*shape[1:])
        if self.cell.saves and self.resets:
            given["reset_h"] = uniform(*shape)
            if self.cell.has_c:
                given["reset_c"] = uniform(*shape)
        if self.cell.is_leaky:
            given["unit_param"] = given["unit_param"].abs()
        if issubclass(self.cell, LeakyPreTanh):  # h is act(c)
            h0 = self.cell.elman.act(given["c0"])
            if self.resets:
                given["reset_h"] = self.cell.elman.act(given["reset_c"])
        pre, weight, h0 = (x.to(device, self.dtype) for x in (pre, weight, h0))
        given = {name: x.to(device, self.dtype) for name, x in given.items()}
        ragged = [x if x is None else x.to(device) for x in (lengths, offsets, resets)]
        return pre, arguments(weight, h0, Ragged(*ragged), *self.options, **given)


def tolerance(problem: Problem, scale: float, mode: str | None = None) -> float:
    """Return a bound on the absolute error of a state or of dz in any correct implementation.

    A step sums H products and one more term in the accumulation dtype. The magnitudes of its terms
    sum to at most `scale`. That takes (H + 1) roundings at worst (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), and the activation adds its own. Storing the result adds one
    more. The weights of `Problem` do not amplify, so T steps err by at most T times as much.

    For a cell with several gates, let w and φ be those of `Problem.inputs`, d and e the errors of h
    and c, and a and b those that a step adds. The derivatives of the LSTM give
    e' <= φ e + (1 + 1/4 + 2.1/4) w d + b and d' <= w d / 4 + e' + a. So neither error ever exceeds
    3.5 b + 1.7 a. The transposed derivatives bound the backward by less than that, and those of the
    GRU too. Storing adds at most a unit of h and 2.1 units of c. The error of a gate's sum, which
    in the backward has K·H terms, adds at most 1/4 and 1.78 times as much. The magnitudes of its
    terms sum to at most 5 in the forward, and to 5 times the largest gradient in the backward.
    `scale` is 1 in the forward, and the largest gradient in the backward.

    A leaky cell rounds twice as often as nn.RNN's, and its state decays. The gradient of a leak is
    a product with a difference of two values: `scale` contains their magnitude as a factor.

    Args:
        problem: the recurrence.
        scale: a bound on the sum of the magnitudes of a step's terms.
        mode: how a GPU computes the products, a key of `MATRIX_UNIT`; None on a CPU. The matrix
            unit truncates its sums instead of rounding them, which may double the error of each.
    """
    stored = UNIT_ROUNDOFF[problem.dtype]
    summed = UNIT_ROUNDOFF[accumulation_dtype(problem.dtype)]
    if mode is not None:
        summed *= 2
        stored += MATRIX_UNIT[mode] + HARDWARE_TANH[mode]
    gates = problem.cell.gates
    summed *= gates * problem.hidden + 1 + ACTIVATION_ROUNDINGS
    # Below float16's normal range, rounding errors are absolute.
    smallest = 2.0**-25 if problem.dtype == torch.float16 else 0.0
    if gates > 1:
        return (10 * stored + 35 * summed) * scale + 10 * smallest
    times = 2 * problem.steps if problem.cell.is_leaky else problem.steps
    return times * ((stored + summed) * scale + smallest)


def assert_close(
    actual: Tensor, expected: Tensor, problem: Problem, scale: float, mode: str | None = None
) -> None:
    """Assert that `actual` is within `tolerance` of the float64 `expected`.

    Args:
        actual: a result in the problem's dtype.
        expected: the same in float64.
        problem: the recurrence.
        scale: a bound on the sum of the magnitudes of a step's terms; see `tolerance`.
        mode: how a GPU computed the products; see `tolerance`.

    Raises:
        AssertionError: the difference exceeds the tolerance, or the shape or dtype is wrong.
    """
    assert actual.dtype == problem.dtype, actual.dtype
    torch.testing.assert_close(
        actual.double(), expected, rtol=0, atol=tolerance(problem, scale, mode)
    )


def relative_tolerance(
    dtype: torch.dtype,
    terms: int,
    steps: int,
    elements: int,
    activation: str = "tanh",
    mode: str | None = None,
) -> tuple[float, float]:
    """Return bounds on ‖result − truth‖ / `error_scale` for an output and a gradient of a layer.

    `tolerance` is a worst case and needs weights that do not amplify. These bounds are for weights
    as nn.RNN draws them, U(±1/√H), and for whole tensors. Their many errors are practically
    independent, so that a sum of n terms errs by √n roundings, not n (Higham and Mary, A new
    approach to probabilistic rounding error analysis, 2019). The spectral radius of the weights is
    1/√3, so errors of earlier steps add at most a factor 1 / (1 - 1/√3) = 2.4. With the roundings
    of a step, the factor stays below 8.

    If autograd differentiates a loop over steps, it accumulates the T gradients of a weight in the
    storage dtype, one by one: √T roundings.

    relu has no derivative at 0. A fraction of the elements of z, as small as the error, is closer
    to 0 than the error and may take either branch. That changes a gradient by the square root of
    the fraction. Among few elements the fraction may by chance be larger, by about four elements
    with gradients up to twice as large as the others'.

    Args:
        dtype: the storage dtype.
        terms: the number of terms of a sum: H plus the number of input features.
        steps: T, the number of steps.
        elements: the number of elements of z, over all steps and rows of the batch.
        activation: ``"tanh"`` or ``"relu"``.
        mode: how a GPU computed the products; see `tolerance`.

    Returns:
        The bound for an output and the bound for a gradient.
    """
    stored = UNIT_ROUNDOFF[dtype]
    summed = UNIT_ROUNDOFF[accumulation_dtype(dtype)]
    if mode is not None:
        stored += MATRIX_UNIT[mode] + HARDWARE_TANH[mode]
        summed *= 2
    output = 8 * (stored + terms**0.5 * summed)
    gradient = 8 * (steps**0.5 * stored + terms**0.5 * summed)
    if activation == "relu":
        gradient += (output + 16 / elements) ** 0.5
    return output, gradient


def error_scale(truth: Tensor, summed: int = 1, term: float = 1.0) -> float:
    """Return the scale of `relative_tolerance`: ‖truth‖ plus the size of terms that may cancel.

    A rounding error is relative to the number that is rounded, a term or a partial sum, and not to
    the final sum. All elements of a small tensor may be close to 0, as a weight's gradient at H = 1
    is if its terms cancel. The partial sums of practically independent terms grow like a random
    walk, up to the root of the sum of the terms' squares. The errors of n terms grow in the same
    way, so the magnitude of each element's terms is added with that growth. It has the size of
    ‖truth‖ where nothing cancels: the bound then loosens only by a small factor.

    Args:
        truth: the exact result.
        summed: the number of terms of an element that differ between rows or steps: T·B for a
            weight's gradient.
        term: the root mean square of the terms, of the order of one.
    """
    return float(truth.norm()) + truth.numel() ** 0.5 * max(1.0, term * summed**0.5)
