"""Tests specific to the CUDA strategies and their plans."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastrnn.ops.arguments import arguments
from fastrnn.ops.backends import cuda
from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.ops.cells import RNN_TANH
from fastrnn.ops.ragged import Ragged
from fastrnn.testing import Problem, assert_close
from tests.utils.checks import CHECKS, biggest, check_forward, double
from tools.gpu_validation.kernels import plans

from .cases import modes_of
from .device import CUDA, Kernel, precision, skip_unsupported

BACKEND = "cuda"  # the backend in the summary, for tests without a strategy

every_strategy = pytest.mark.parametrize("kernel", CUDA, ids=str)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("kernel", "mode", "batch", "hidden"),
    [
        (Kernel("cuda", "cluster"), "bfloat16", 5000, 128),
        (Kernel("cuda", "cluster"), "float32", 1500, 500),
        (Kernel("cuda", "cluster"), "float16", 2000, 1000),
        (Kernel("cuda", "grid"), "float32", 1500, 1024),
        (Kernel("cuda", "grid"), "bfloat16", 1500, 1021),
        (Kernel("cuda", "grid"), "float16", 200, 4096),
    ],
    ids=str,
)
def test_more_tiles_than_run_concurrently(
    kernel: Kernel, mode: str, batch: int, hidden: int, check, device: torch.device
) -> None:
    direction = "forward" if check is check_forward else "backward"
    with precision(mode) as how:
        problem = Problem(6, batch, 1, hidden, "lengths", dtype=how.dtype)
        skip_unsupported(kernel, problem, direction)
        state = torch.empty(batch, 1, hidden, dtype=how.dtype, device=device)
        plan = plans(state, problem.steps, direction)[1][kernel.name]
        assert plan.tiles > plan.at_once, "all tiles run at once: the test needs more rows"
        check(cuda.BACKEND, problem, device, how.products, **kernel.options)


@pytest.mark.parametrize("layout", ["dense", "lengths"])
@pytest.mark.parametrize("hidden", [40, 129])
@every_strategy
def test_in_place(kernel: Kernel, hidden: int, layout: str, device: torch.device) -> None:
    """Overwriting pre gives the same result as a new out, for a strategy and for the plan."""
    problem = Problem(11, 37, 2, hidden, layout, dtype=torch.bfloat16)
    pre, weight_hh, h0, ragged = problem.tensors(device)
    rest = weight_hh, h0, ragged, *problem.options
    out, h_n = cuda.BACKEND.forward(pre, *rest, **kernel.options)
    given, state = pre.clone(), torch.empty_like(h0)
    operator = torch.ops.fastrnn.cuda_forward
    strategy = cuda.STRATEGIES.index(kernel.name)
    shared = arguments(weight_hh, h0, ragged, *problem.options)
    operator(given, *shared, given, state, None, None, None, False, strategy)
    assert torch.equal(given, out)
    assert torch.equal(state, h_n)
    planned = cuda.BACKEND.forward(pre, *rest)
    h_n = cuda.BACKEND.forward_out(pre, pre, *rest)
    assert torch.equal(pre, planned[0])
    assert torch.equal(h_n, planned[1])


@pytest.mark.parametrize("mode", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("hidden", [40, 129, 512])
@every_strategy
def test_nan_and_the_sentinel_bits(
    kernel: Kernel, hidden: int, mode: str, device: torch.device
) -> None:
    """NaN inputs of any bit pattern give NaN without a deadlock, and do not affect other rows.

    Kernels that poll for a state use words of all ones as the sentinel for "not yet written". As
    numbers they are NaN, which h0, pre and grad_out may contain.
    """
    with precision(mode) as how:
        problem = Problem(6, 20, 2, hidden, "lengths", dtype=how.dtype)
        pre, weight_hh, h0, ragged = problem.tensors(device)
        ragged.lengths.fill_(problem.steps)
        rest = weight_hh, h0, ragged, *problem.options
        clean = cuda.BACKEND.forward(pre, *rest, **kernel.options)
        bad = [3, 17]
        _set_all_bits(h0[bad[0]])
        _set_all_bits(pre[2, bad[1]])
        out, h_n = cuda.BACKEND.forward(pre, *rest, **kernel.options)
        expected = reference.forward(pre, *rest)[0]
        good = [b for b in range(problem.batch) if b not in bad]
        assert torch.equal(out.isnan(), expected.isnan())
        assert out.isnan()[:, bad].any()
        assert torch.equal(out[:, good], clean[0][:, good])
        assert torch.equal(h_n[good], clean[1][good])

        grads = torch.ones_like(out), torch.ones_like(h_n)
        clean = cuda.BACKEND.backward(*grads, clean[0], *rest, **kernel.options)
        _set_all_bits(grads[0][1, bad[0]])
        _set_all_bits(grads[1][bad[1]])
        grad_pre, grad_h0 = cuda.BACKEND.backward(*grads, out.nan_to_num(), *rest, **kernel.options)
        expected_pre = reference.backward(*grads, out.nan_to_num(), *rest)[0]
        assert torch.equal(grad_pre.isnan(), expected_pre.isnan())
        assert grad_pre.isnan()[:, bad].any()
        assert torch.equal(grad_pre[:, good], clean[0][:, good])
        assert torch.equal(grad_h0[good], clean[1][good])


def _set_all_bits(tensor: Tensor) -> None:
    """Set all bits to 1."""
    integer = torch.int32 if tensor.dtype == torch.float32 else torch.int16
    tensor.view(integer).fill_(-1)


@pytest.mark.parametrize("layout", ["dense", "lengths", "packed"])
@every_strategy
def test_no_steps(kernel: Kernel, layout: str, device: torch.device) -> None:
    """With no steps, h_n is h0 and its gradient passes through."""
    problem = Problem(1, 5, 2, 40, dtype=torch.float16)
    _, weight_hh, h0, *_ = problem.tensors(device)
    pre = h0.new_empty(*((0,) if layout == "packed" else (0, 5)), 2, 40)
    lengths = None if layout == "dense" else torch.zeros(5, dtype=torch.int64, device=device)
    offsets = torch.zeros(0, dtype=torch.int64, device=device) if layout == "packed" else None
    rest = weight_hh, h0, Ragged(lengths, offsets), RNN_TANH, 1
    out, h_n = cuda.BACKEND.forward(pre, *rest, **kernel.options)
    assert out.shape == pre.shape
    assert torch.equal(h_n, h0)
    grad_pre, grad_h0 = cuda.BACKEND.backward(pre, 2 * h0, out, *rest, **kernel.options)
    assert grad_pre.shape == pre.shape
    assert torch.equal(grad_h0, 2 * h0)


@pytest.mark.parametrize("layout", ["dense", "lengths", "packed"])
@every_strategy
def test_a_long_sequence(kernel: Kernel, layout: str, device: torch.device) -> None:
    """The sequence is long enough to reuse every buffer many times."""
    problem = Problem(3000, 9, 2, 72, layout, dtype=torch.float32)
    with precision("float32"):
        arguments = *problem.tensors(device), *problem.options
        out, _ = cuda.BACKEND.forward(*arguments, **kernel.options)
        pre, weight_hh, h0, *rest = arguments
        expected, _ = reference.forward(*double(pre, weight_hh, h0), *rest)
        # A step shrinks an error to less than 0.98 of it, so all steps sum to less than 50.
        bound = Problem(50, 9, 2, 72, dtype=torch.float32)
        assert_close(out, expected, bound, biggest(pre, h0, expected), "float32")


@every_strategy
def test_another_stream(kernel: Kernel, device: torch.device) -> None:
    """Kernels run on the current stream, after the work that was queued there before."""
    problem = Problem(20, 40, 2, 200, "lengths", dtype=torch.bfloat16)
    pre, *rest = *problem.tensors(device), *problem.options
    expected = cuda.BACKEND.forward(pre, *rest, **kernel.options)
    late = torch.zeros_like(pre)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late.copy_(pre)
        results = cuda.BACKEND.forward(late, *rest, **kernel.options)
    stream.synchronize()
    assert all(map(torch.equal, results, expected))


def test_the_default_plan_is_one_of_the_strategies(device: torch.device) -> None:
    """A call without a strategy gives the same bits as one with the planned strategy."""
    problem = Problem(12, 30, 1, 300, dtype=torch.float16)
    arguments = *problem.tensors(device), *problem.options
    chosen, _ = plans(arguments[2], problem.steps, "forward")
    for one, other in zip(
        cuda.BACKEND.forward(*arguments),
        cuda.BACKEND.forward(*arguments, strategy=chosen),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kernel", CUDA[:2], ids=str)
def test_an_unsupported_strategy_raises_with_a_reason(kernel: Kernel, device: torch.device) -> None:
    problem = Problem(3, 2, 1, 16, dtype=torch.float64)
    assert "float64" not in modes_of(kernel)
    reason = f"'{kernel.name}' cannot serve this call: .*float64"
    _raises(reason, lambda: _forward(problem, device, kernel.name))


def test_an_unknown_strategy(device: torch.device) -> None:
    problem = Problem(3, 2, 1, 16, dtype=torch.float32)
    _raises("no strategy is named 'fastest'", lambda: _forward(problem, device, "fastest"))


def _forward(problem: Problem, device: torch.device, strategy: str) -> tuple[Tensor, Tensor]:
    return cuda.BACKEND.forward(*problem.tensors(device), *problem.options, strategy=strategy)


def _raises(reason: str, call: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=reason):
        call()
