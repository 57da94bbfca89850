"""Random problems and how close a kernel must come to the float64 reference.

Shared by the tests and the benchmarks; needs nothing but torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ._rounding import ACTIVATION_ROUNDINGS, UNIT_ROUNDOFF
from .ops import reference
from .ops.ragged import Ragged

#: What the matrix unit adds to the relative error of a product, by the modes of
#: `ops.backends.triton.table`.
#: It cuts a float32 operand to the 10 bits of tf32. Three such products leave out that of what was
#: cut off of both, and cut what was cut off of each once more.
MATRIX_UNIT = {"half": 0.0, "tf32": 2 * 2.0**-10, "float32": 2 * 2.0**-20}

#: The relative error of the hardware's tanh, by the same: PTX ISA, tanh.approx.f32.
HARDWARE_TANH = {"half": 2.0**-11, "tf32": 2.0**-11, "float32": 0.0}


class Tensors(NamedTuple):
    """The tensors of a recurrence."""

    pre: Tensor  #: [T, B, G, H] or [N, G, H]
    weight_hh: Tensor  #: [G, H, H]
    h0: Tensor  #: [B, G, H]
    ragged: Ragged


@dataclass(frozen=True)
class Problem:
    """A random recurrence, made anew and equal from its numbers."""

    steps: int
    batch: int
    groups: int
    hidden: int
    layout: str = "dense"  #: "dense", "lengths" or "packed"
    activation: str = "tanh"
    reverse_from: int = 1
    dtype: torch.dtype = torch.float64
    seed: int = 0
    resets: bool = False  #: whether rows begin anew here and there

    def tensors(self, device: torch.device | str = "cpu") -> Tensors:
        """Inputs in the problem's dtype, with weights that do not amplify.

        The absolute values of every row and column of a group's weight_hh sum to less than 1, so
        an error in h (forward) or dz (backward) does not grow from step to step, and the bound of
        `tolerance` holds without an exponential in T.
        """
        generator = torch.Generator().manual_seed(self.seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1

        shape = (self.batch, self.groups, self.hidden)
        weight = uniform(self.groups, self.hidden, self.hidden)
        sums = torch.maximum(weight.abs().sum(1).amax(1), weight.abs().sum(2).amax(1))
        weight *= 0.98 / sums[:, None, None]
        lengths = offsets = None
        if self.layout != "dense":
            lengths = torch.randint(0, self.steps + 1, (self.batch,), generator=generator)
        if self.layout == "packed":
            assert lengths is not None
            lengths = lengths.sort(descending=True).values
            sizes = (torch.arange(self.steps)[:, None] < lengths).sum(1)
            offsets = sizes.cumsum(0) - sizes
            pre = uniform(int(sizes.sum()), *shape[1:])
        else:
            pre = uniform(self.steps, *shape)
        real = [t.to(device, self.dtype) for t in (2 * pre, weight, uniform(*shape))]
        resets = None
        if self.resets:
            rows = pre.shape[: pre.dim() - 2]
            resets = torch.rand(*rows, generator=generator) < 0.3
        ragged = [t if t is None else t.to(device) for t in (lengths, offsets, resets)]
        return Tensors(real[0], real[1], real[2], Ragged(*ragged))

    @property
    def options(self) -> tuple[int, int]:
        """The operator's last arguments."""
        return reference.ACTIVATION_CODES[self.activation], min(self.reverse_from, self.groups)


def tolerance(problem: Problem, scale: float, mode: str | None = None) -> float:
    """A bound on the absolute error of h or dz in any correct implementation.

    A step sums H products and one term more, none larger than `scale` in total, in the
    accumulation dtype: (H + 1) roundings at worst (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1), and those of the activation; its result is stored with one rounding
    more. The weights of `Problem` do not amplify, so T steps give at most T times that.

    On a GPU, `mode` says how the products are computed. The matrix unit cuts its sums off instead
    of rounding them, which may double the error of each.
    """
    stored = UNIT_ROUNDOFF[problem.dtype]
    summed = UNIT_ROUNDOFF[reference.accumulation_dtype(problem.dtype)]
    if mode is not None:
        summed *= 2
        stored += MATRIX_UNIT[mode] + HARDWARE_TANH[mode]
    step = stored + (problem.hidden + 1 + ACTIVATION_ROUNDINGS) * summed
    # Below float16's normal range rounding is absolute.
    smallest = 2.0**-25 if problem.dtype == torch.float16 else 0.0
    return problem.steps * (step * scale + smallest)


def assert_close(
    actual: Tensor, expected: Tensor, problem: Problem, scale: float, mode: str | None = None
) -> None:
    """Assert that `actual`, of the problem's dtype, is as near the float64 `expected` as it must.

    Args:
        scale: a bound on the terms of a step's sum; see `tolerance`.
        mode: how a GPU computed the products; see `tolerance`.

    Raises:
        AssertionError: it is not, or it has another shape or dtype.
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
    """Bounds on ‖result − truth‖ / `error_scale` of an output and a gradient, of any correct layer.

    `tolerance` is a worst case and needs weights that do not amplify. This is for weights as nn.RNN
    draws them, U(±1/√H), and for whole tensors, whose many errors are as good as independent: a sum
    of n terms then errs by √n roundings, not n (Higham and Mary, A new approach to probabilistic
    rounding error analysis, 2019). Their spectral radius is 1/√3, so that errors of earlier steps
    add no more than a factor 1 / (1 - 1/√3) = 2.4; with the roundings of a step it stays below 8.

    A loop over steps that autograd differentiates adds up a weight's T gradients in the storage
    dtype, one by one: √T roundings. And relu has no derivative at 0: of the elements of z, a part
    as small as the error lies within the error of it and may take either branch, which changes a
    gradient by the square root of that part; of few elements the part may by chance be larger, by
    about four of them, whose gradients may be twice the others'.

    Args:
        terms: of a sum: H and the number of input features.
        elements: of z, over all steps and rows of the batch.
        mode: how a GPU computed the products; see `tolerance`.
    """
    stored = UNIT_ROUNDOFF[dtype]
    summed = UNIT_ROUNDOFF[reference.accumulation_dtype(dtype)]
    if mode is not None:
        stored += MATRIX_UNIT[mode] + HARDWARE_TANH[mode]
        summed *= 2
    output = 8 * (stored + terms**0.5 * summed)
    gradient = 8 * (steps**0.5 * stored + terms**0.5 * summed)
    if activation == "relu":
        gradient += (output + 16 / elements) ** 0.5
    return output, gradient


def error_scale(truth: Tensor, summed: int = 1, term: float = 1.0) -> float:
    """What the bounds of `relative_tolerance` are relative to: ‖truth‖, and what may cancel in it.

    A rounding is relative to the number that is rounded: a term, or a partial sum, and not to what
    is left of them at the end. Of a few elements all may be next to nothing, as is a weight's
    gradient at H = 1 whose terms cancel. Terms that are as good as independent have partial sums
    that grow as a random walk does, up to the root of the sum of the terms' squares, and the
    errors of n terms add up in the same way. So the magnitude of each element's terms is added
    that way. It is the size of ‖truth‖ where nothing cancels: a bound stays as tight as it was, but
    for a small factor.

    Args:
        summed: the terms of an element that differ from row to row or step to step: T·B of a
            weight's gradient.
        term: their root mean square, of the order of one.
    """
    return float(truth.norm()) + truth.numel() ** 0.5 * max(1.0, term * summed**0.5)
