"""More than 2^31 elements: an index of 32 bits would reach elsewhere."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastrnn.ops import reference, triton
from fastrnn.testing import Problem, assert_close
from tests.ops.checks import biggest, double

from .device import INTERPRETED, KERNELS

STEPS, BATCH, HIDDEN = (4, 6, 64) if INTERPRETED else (8200, 4096, 64)
DTYPE = torch.float16 if INTERPRETED else torch.bfloat16

#: The weights halve what they are given, so an error adds up to less than twice that of a step.
PROBLEM = Problem(steps=2, batch=BATCH, groups=1, hidden=HIDDEN, dtype=DTYPE)

#: Tensors as large as out that a test holds at most, what it makes to check among them.
TENSORS = 4


@pytest.fixture(autouse=True)
def memory(device: torch.device):
    """Enough of it, and given back."""
    if not INTERPRETED:
        assert STEPS * BATCH * HIDDEN > 2**31
        needed = TENSORS * STEPS * BATCH * HIDDEN * DTYPE.itemsize
        free = torch.cuda.mem_get_info(device)[0]
        if free < needed:
            pytest.skip(f"needs {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free")
    yield
    if not INTERPRETED:
        torch.cuda.empty_cache()


def _random(device: torch.device, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=DTYPE, device=device).uniform_(-2, 2)


def _ragged(layout: str, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """All rows to the last step; what matters is how they are addressed."""
    if layout == "dense":
        return None, None
    lengths = torch.full((BATCH,), STEPS, device=device)
    return lengths, torch.arange(STEPS, device=device) * BATCH


def _rows(data: Tensor) -> Tensor:
    """The first two and last two rows of the batch, at all steps: [T, 4, 1, H]."""
    data = data.view(STEPS, BATCH, 1, HIDDEN)
    return torch.cat((data[:, :2], data[:, -2:]), dim=1)


def _ends(state: Tensor) -> Tensor:
    return torch.cat((state[:2], state[-2:]))


def _or_skip(run: Callable[[], None]) -> None:
    try:
        run()
    except torch.OutOfMemoryError as error:  # another process was faster
        pytest.skip(f"too little memory: {str(error).splitlines()[0]}")


@pytest.mark.parametrize("layout", ["dense", "packed"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_forward(kernel: str, layout: str, device: torch.device) -> None:
    def run() -> None:
        weight_hh = PROBLEM.tensors(device).weight_hh / 2
        shape = (STEPS, BATCH, 1, HIDDEN) if layout == "dense" else (STEPS * BATCH, 1, HIDDEN)
        pre, h0 = _random(device, *shape), _random(device, BATCH, 1, HIDDEN)
        ragged = _ragged(layout, device)
        out, h_n = triton.forward(pre, weight_hh, h0, *ragged, "tanh", 1, kernel=kernel)
        inputs = double(_rows(pre), weight_hh, _ends(h0))
        expected = reference.forward(*inputs, None, None, "tanh", 1)
        scale = biggest(_rows(pre), h0, expected[0])
        assert_close(_rows(out), expected[0], PROBLEM, scale, "half")
        assert_close(_ends(h_n), expected[1], PROBLEM, scale, "half")
        assert out.abs().amax() <= 1, "something was left unwritten"  # NaN is not <= 1

    _or_skip(run)


@pytest.mark.parametrize("layout", ["dense", "packed"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_backward(kernel: str, layout: str, device: torch.device) -> None:
    def run() -> None:
        weight_hh = PROBLEM.tensors(device).weight_hh / 2
        shape = (STEPS, BATCH, 1, HIDDEN) if layout == "dense" else (STEPS * BATCH, 1, HIDDEN)
        out, grad_out = _random(device, *shape).div_(2), _random(device, *shape)
        h0, grad_h_n = (_random(device, BATCH, 1, HIDDEN) for _ in range(2))
        rest = (weight_hh, h0, *_ragged(layout, device), "tanh", 1)
        grad_pre, grad_h0 = triton.backward(grad_out, grad_h_n, out, *rest, kernel=kernel)
        inputs = double(_rows(grad_out), _ends(grad_h_n), _rows(out), weight_hh, _ends(h0))
        expected = reference.backward(*inputs, None, None, "tanh", 1)
        scale = biggest(_rows(grad_out), grad_h_n, expected[0])
        assert_close(_rows(grad_pre), expected[0], PROBLEM, scale, "half")
        assert_close(_ends(grad_h0), expected[1], PROBLEM, scale, "half")
        assert grad_pre.abs().amax() < 100, "something was left unwritten"

    _or_skip(run)
