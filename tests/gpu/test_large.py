"""Large problems: more than 2^31 elements, where 32-bit indices would overflow, and the largest H
that each kernel supports.
"""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.ops.cells import RNN_TANH
from fastrnn.ops.ragged import DENSE, Ragged
from fastrnn.testing import Problem, assert_close
from tests.utils.checks import CHECKS, biggest, check_forward, double

from .device import CUDA, INTERPRETED, KERNELS, Kernel, precision, skip_unsupported

STEPS, BATCH, HIDDEN = (4, 6, 64) if INTERPRETED else (8200, 4096, 64)
DTYPE = torch.float16 if INTERPRETED else torch.bfloat16

#: The weights are halved, so that the errors of all steps sum to less than twice that of one.
PROBLEM = Problem(steps=2, batch=BATCH, groups=1, hidden=HIDDEN, dtype=DTYPE)

#: The maximum number of tensors of out's size that a test holds, including those of its checks.
TENSORS = 4


#: Seconds to wait for other tests to free memory.
WAITING = 30


@pytest.fixture
def memory(device: torch.device):
    """Wait for enough free GPU memory, and free it after the test."""
    if not INTERPRETED:
        assert STEPS * BATCH * HIDDEN > 2**31
        needed = TENSORS * STEPS * BATCH * HIDDEN * DTYPE.itemsize
        end = time.monotonic() + WAITING
        while (free := torch.cuda.mem_get_info(device)[0]) < needed:
            if time.monotonic() > end:
                pytest.skip(f"needs {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free")
            time.sleep(0.5)
    yield
    if not INTERPRETED:
        torch.cuda.empty_cache()


def _random(device: torch.device, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=DTYPE, device=device).uniform_(-2, 2)


def _ragged(layout: str, device: torch.device) -> Ragged:
    """Return a layout with all rows active at all steps, to test how they are addressed."""
    if layout == "dense":
        return DENSE
    lengths = torch.full((BATCH,), STEPS, device=device)
    return Ragged(lengths, torch.arange(STEPS, device=device) * BATCH)


def _rows(data: Tensor) -> Tensor:
    """Return the first two and last two rows of the batch at all steps: [T, 4, 1, H]."""
    data = data.view(STEPS, BATCH, 1, HIDDEN)
    return torch.cat((data[:, :2], data[:, -2:]), dim=1)


def _ends(state: Tensor) -> Tensor:
    return torch.cat((state[:2], state[-2:]))


def _or_skip(run: Callable[[], None]) -> None:
    try:
        run()
    except torch.OutOfMemoryError as error:  # another process took the memory
        pytest.skip(f"too little memory: {str(error).splitlines()[0]}")


@pytest.mark.parametrize("layout", ["dense", "packed"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_forward(kernel: Kernel, layout: str, memory: None, device: torch.device) -> None:
    def run() -> None:
        weight_hh = PROBLEM.tensors(device).weight_hh / 2
        shape = (STEPS, BATCH, 1, HIDDEN) if layout == "dense" else (STEPS * BATCH, 1, HIDDEN)
        pre, h0 = _random(device, *shape), _random(device, BATCH, 1, HIDDEN)
        ragged = _ragged(layout, device)
        rest = weight_hh, h0, ragged, RNN_TANH, 1
        out, h_n = kernel.implementation.forward(pre, *rest, **kernel.options)
        inputs = double(_rows(pre), weight_hh, _ends(h0))
        expected = reference.forward(*inputs, DENSE, RNN_TANH, 1)
        scale = biggest(_rows(pre), h0, expected[0])
        assert_close(_rows(out), expected[0], PROBLEM, scale, "half")
        assert_close(_ends(h_n), expected[1], PROBLEM, scale, "half")
        assert out.abs().amax() <= 1, "some elements were not written"  # NaN is not <= 1

    _or_skip(run)


@pytest.mark.parametrize("layout", ["dense", "packed"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_backward(kernel: Kernel, layout: str, memory: None, device: torch.device) -> None:
    def run() -> None:
        weight_hh = PROBLEM.tensors(device).weight_hh / 2
        shape = (STEPS, BATCH, 1, HIDDEN) if layout == "dense" else (STEPS * BATCH, 1, HIDDEN)
        out, grad_out = _random(device, *shape).div_(2), _random(device, *shape)
        h0, grad_h_n = (_random(device, BATCH, 1, HIDDEN) for _ in range(2))
        rest = (weight_hh, h0, _ragged(layout, device), RNN_TANH, 1)
        grad_pre, grad_h0 = kernel.implementation.backward(
            grad_out, grad_h_n, out, *rest, **kernel.options
        )
        inputs = double(_rows(grad_out), _ends(grad_h_n), _rows(out), weight_hh, _ends(h0))
        expected = reference.backward(*inputs, DENSE, RNN_TANH, 1)
        scale = biggest(_rows(grad_out), grad_h_n, expected[0])
        assert_close(_rows(grad_pre), expected[0], PROBLEM, scale, "half")
        assert_close(_ends(grad_h0), expected[1], PROBLEM, scale, "half")
        assert grad_pre.abs().amax() < 100, "some elements were not written"

    _or_skip(run)


#: The largest H that each kernel guarantees; skipped on GPUs smaller than an H100.
LARGEST = [
    (Kernel("cuda", "grid"), "bfloat16", 4096),
    (Kernel("cuda", "grid"), "float16", 4095),
    (Kernel("cuda", "grid"), "float32", 2048),
    (Kernel("cuda", "grid"), "tf32", 2045),
    (Kernel("cuda", "step"), "bfloat16", 4096),
    (Kernel("cuda", "step"), "float32", 3001),
    (Kernel("cuda", "step"), "float64", 1500),
]


@pytest.mark.skipif(INTERPRETED, reason="the CUDA kernels need a GPU")
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("batch", [3, 70])
@pytest.mark.parametrize(("kernel", "mode", "hidden"), LARGEST, ids=str)
def test_large_hidden_size(
    kernel: Kernel, mode: str, hidden: int, batch: int, check, device: torch.device
) -> None:
    with precision(mode) as how:
        problem = Problem(6, batch, 1, hidden, "lengths", dtype=how.dtype, reverse_from=batch % 2)
        skip_unsupported(kernel, problem, "forward" if check is check_forward else "backward")
        check(kernel.implementation, problem, device, how.products, **kernel.options)


@pytest.mark.skipif(INTERPRETED, reason="the CUDA kernels need a GPU")
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("mode", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("kernel", [kernel for kernel in CUDA if kernel.name != "step"], ids=str)
def test_the_largest_hidden_size_that_fits(
    kernel: Kernel, mode: str, check, device: torch.device
) -> None:
    """The largest H fills registers and shared memory; one more raises with the reason."""
    direction = "forward" if check is check_forward else "backward"
    with precision(mode) as how:

        def rejection(hidden: int) -> str | None:
            state = torch.empty(9, 1, hidden, dtype=how.dtype, device=device)
            return kernel.unsupported_reason(state, 5, direction)

        fits, too_wide = 16, 2**14
        if rejection(fits) is not None:
            pytest.skip(rejection(fits))
        while too_wide - fits > 1:
            middle = (fits + too_wide) // 2
            fits, too_wide = (middle, too_wide) if rejection(middle) is None else (fits, middle)
        problem = Problem(5, 9, 1, fits, dtype=how.dtype)
        check(kernel.implementation, problem, device, how.products, **kernel.options)
        if direction == "forward":
            pre = torch.zeros(1, 1, 1, too_wide, dtype=how.dtype, device=device)
            weight_hh = pre.new_zeros(1, too_wide, too_wide)
            rest = weight_hh, pre[0], DENSE, RNN_TANH, 1
            with pytest.raises(RuntimeError, match=f"'{kernel.name}' cannot serve this call: "):
                kernel.implementation.forward(pre, *rest, **kernel.options)
