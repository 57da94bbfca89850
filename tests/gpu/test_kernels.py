"""Every kernel, in every mode, against the float64 reference."""

import pytest
import torch

from fastrnn.ops import triton
from fastrnn.testing import Problem
from tests.ops.checks import CHECKS

from .cases import CASES, Case
from .device import INTERPRETED, KERNELS, MODES, precision


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sample(case: Case, check, device: torch.device) -> None:
    if INTERPRETED and case.mode == "bfloat16":
        pytest.skip("Triton's interpreter computes bfloat16 products wrongly")
    with precision(case.mode) as mode:
        check(triton, case.problem, device, mode.products, kernel=case.kernel)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("layout", ["dense", "lengths"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_batch_of_none(kernel: str, layout: str, check, device: torch.device) -> None:
    problem = Problem(3, 0, 2, 17, layout, dtype=MODES["float16"].dtype)
    check(triton, problem, device, "half", kernel=kernel)
