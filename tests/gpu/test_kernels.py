"""Every kernel in every mode, compared with the float64 reference."""

import pytest
import torch
from torch import Tensor

from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.ops.ragged import Ragged
from fastrnn.testing import Problem
from tests.utils.checks import CHECKS, check_forward

from .cases import CASES, Case
from .device import INTERPRETED, KERNELS, MODES, Kernel, precision, skip_unsupported


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sample(case: Case, check, device: torch.device) -> None:
    if INTERPRETED and case.mode == "bfloat16":
        pytest.skip("Triton's interpreter computes bfloat16 products wrongly")
    with precision(case.mode) as mode:
        skip_unsupported(
            case.kernel, case.problem, "forward" if check is check_forward else "backward"
        )
        check(
            case.kernel.implementation, case.problem, device, mode.products, **case.kernel.options
        )


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("layout", ["dense", "lengths"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_empty_batch(kernel: Kernel, layout: str, check, device: torch.device) -> None:
    problem = Problem(3, 0, 2, 17, layout, dtype=MODES["float16"].dtype)
    check(kernel.implementation, problem, device, "half", **kernel.options)


class _Unaligned:
    """A kernel with all arguments offset by one element from 16-byte alignment."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def forward(self, *arguments):
        return self.kernel.implementation.forward(*map(_shifted, arguments), **self.kernel.options)

    def backward(self, *arguments):
        return self.kernel.implementation.backward(*map(_shifted, arguments), **self.kernel.options)


def _shifted(argument):
    if isinstance(argument, Ragged):
        return Ragged(*map(_shifted, argument))
    if not isinstance(argument, Tensor):
        return argument
    view = argument.new_empty(argument.numel() + 1)[1:].view(argument.shape)
    return view.copy_(argument)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("mode", ["float32", "float16"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_unaligned(kernel: Kernel, mode: str, check, device: torch.device) -> None:
    with precision(mode) as how:
        problem = Problem(7, 19, 2, 128, "lengths", dtype=how.dtype)
        check(_Unaligned(kernel), problem, device, how.products)


@pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter would take minutes")
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_interleaved_calls_of_other_sizes(kernel: Kernel, device: torch.device) -> None:
    """No state remains from a previous call, whether larger or smaller."""
    with precision("float16") as mode:
        problems = [
            Problem(steps, batch, groups, hidden, layout, dtype=mode.dtype)
            for steps, batch, groups, hidden, layout in [
                (9, 40, 2, 100, "packed"),
                (3, 5, 1, 100, "packed"),
                (20, 70, 1, 128, "dense"),
            ]
        ]
        first, second = ([_results(kernel, problem, device) for problem in problems] for _ in "12")
    for one, other in zip(first, second, strict=True):
        assert all(map(torch.equal, one, other))


def _results(kernel: Kernel, problem: Problem, device: torch.device) -> tuple[Tensor, ...]:
    pre, *rest = *problem.tensors(device), *problem.options
    out, h_n = reference.forward(pre, *rest)
    grads = torch.ones_like(out), torch.ones_like(h_n)
    forward = kernel.implementation.forward(pre, *rest, **kernel.options)
    return *forward, *kernel.implementation.backward(*grads, out, *rest, **kernel.options)
