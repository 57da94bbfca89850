"""Every backend on every instruction set, compared with the float64 reference."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastrnn.ops.arguments import arguments
from fastrnn.ops.backends import cpu, dispatch
from fastrnn.ops.backends.base import Kernels
from fastrnn.ops.cells import CODES, LSTM, RNN_MODES, RNN_TANH
from fastrnn.ops.ragged import DENSE, Ragged
from fastrnn.ops.reference import accumulation_dtype
from fastrnn.testing import Problem

from ...utils.cells import KINDS, LEAKY
from ...utils.checks import CHECKS, RECURRENCE_CHECKS
from ...utils.strategies import problems

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
INSTRUCTION_SETS = (
    [] if cpu.EXTENSION.unavailable_reason else cpu.EXTENSION.info["instruction_sets"]
)

many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _each_module(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """Yield a backend; the extension once per instruction set that this processor supports."""
    name, _, instruction_set = request.param.partition("-")
    if not instruction_set:
        yield dispatch.BACKENDS[name]
        return
    from fastrnn import _C

    best = _C.info()["instruction_set"]
    if not _C.use_instruction_set(instruction_set):
        pytest.skip(f"this processor lacks {instruction_set}")
    yield dispatch.BACKENDS[name]
    assert _C.use_instruction_set(best)


EXTENSION = [f"cpu-{name}" for name in INSTRUCTION_SETS]
module = pytest.fixture(_each_module, params=["reference", *EXTENSION], name="module")
#: Only the extension, for properties that other backends do not guarantee.
extension = pytest.fixture(_each_module, params=EXTENSION, name="extension")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("check", CHECKS)
def test_random_problems(module: Kernels, check, dtype: torch.dtype) -> None:
    @settings(many, max_examples=40)
    @given(problems(dtype=dtype))
    def run(problem: Problem) -> None:
        check(module, problem)

    run()


# The other cells share their loads and stores with nn.RNN's: the default run takes a dtype that is
# stored as it is computed, and one that is not.
OTHER_CELLS = [
    pytest.param(
        kind,
        dtype,
        marks=[]
        if dtype == torch.float32 or (dtype == torch.bfloat16 and kind not in LEAKY)
        else pytest.mark.exhaustive,
        id=f"{kind}-{dtype}",
    )
    for kind in ("LSTM", "GRU", *LEAKY)
    for dtype in DTYPES
]


@pytest.mark.parametrize("check", RECURRENCE_CHECKS)
@pytest.mark.parametrize(("kind", "dtype"), OTHER_CELLS)
def test_random_problems_of_other_cells(
    module: Kernels, kind: str, check, dtype: torch.dtype
) -> None:
    is_reference = module is dispatch.BACKENDS["reference"]

    @settings(many, max_examples=5 if is_reference else 8)
    @given(problems(dtype=dtype, kind=kind))
    def run(problem: Problem) -> None:
        check(module, problem)

    run()


@pytest.mark.exhaustive
@pytest.mark.parametrize("check", RECURRENCE_CHECKS)
@pytest.mark.parametrize("kind", [*KINDS, *LEAKY])
def test_thousands_of_random_problems(extension: Kernels, kind: str, check) -> None:
    @settings(many, max_examples=500)
    @given(problems(kind=kind), st.sampled_from(DTYPES))
    def run(problem: Problem, dtype: torch.dtype) -> None:
        check(extension, replace(problem, dtype=dtype))

    run()


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    former = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(former)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.parametrize("check", RECURRENCE_CHECKS)
@pytest.mark.parametrize(
    ("kind", "dtype", "hidden"),
    [
        *((kind, torch.float64, 530) for kind in (*KINDS, *LEAKY)),
        ("RNN", torch.bfloat16, 1060),  # an instruction set may multiply it as it is stored
    ],
    ids=str,
)
def test_units_in_several_chunks(
    extension: Kernels, kind: str, dtype: torch.dtype, hidden: int, check
) -> None:
    """z of 32 rows and one gate exceeds `chunk_bytes` of csrc/cpu/recurrence.h."""
    problem = Problem(3, 64, 1, hidden, "lengths", dtype=dtype, kind=kind, resets=True)
    check(extension, problem)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("steps", "batch", "groups", "hidden"),
    [
        (300, 1, 1, 1),
        (1, 7, 1, 67),  # a single step, for which W_hh is not packed as a whole
        (2, 7, 1, 67),
        (3, 150, 1, 5),  # several tiles of the batch
        (8, 2, 16, 24),  # many groups
        (6, 3, 1, 300),  # threads share a step
        (5, 37, 2, 129),
    ],
)
@pytest.mark.parametrize("layout", ["dense", "lengths", "packed"])
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_larger_shapes(module: Kernels, check, steps, batch, groups, hidden, layout) -> None:
    problem = Problem(steps, batch, groups, hidden, layout, dtype=torch.float32, resets=groups > 1)
    check(module, problem)


PROBLEM = Problem(steps=12, batch=13, groups=2, hidden=45, layout="lengths", dtype=torch.float32)
SHARED = Problem(steps=9, batch=3, groups=1, hidden=320, dtype=torch.float32)


@pytest.mark.parametrize("problem", [PROBLEM, SHARED], ids=["tiles", "shared step"])
def test_results_are_bitwise_equal_across_threads_and_runs(
    extension: Kernels, problem: Problem
) -> None:
    arguments = (*problem.tensors(), *problem.options)
    out, h_n = extension.forward(*arguments)
    grads = torch.randn_like(out), torch.randn_like(h_n)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (threads, threads, 1, 3):
            torch.set_num_threads(count)
            forward = extension.forward(*arguments)
            results.append((*forward, *extension.backward(*grads, forward[0], *arguments[1:])))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for first, again in zip(results[0], result, strict=True):
            assert torch.equal(first, again)


def test_a_row_does_not_depend_on_its_tile(extension: Kernels) -> None:
    """A single step also does not depend on whether W_hh was packed as a whole; see make_plan."""
    pre, weight_hh, h0, ragged = PROBLEM.tensors()
    assert ragged.lengths is not None
    out, h_n = extension.forward(pre, weight_hh, h0, ragged, *PROBLEM.options)
    for b in range(PROBLEM.batch):
        row = slice(b, b + 1)
        row_ragged = Ragged(ragged.lengths[row])
        alone = extension.forward(pre[:, row], weight_hh, h0[row], row_ragged, *PROBLEM.options)
        assert torch.equal(alone[0], out[:, row])
        assert torch.equal(alone[1], h_n[row])
    first = extension.forward(pre[:1, :, :1], weight_hh[:1], h0[:, :1], ragged, RNN_TANH, 1)
    assert torch.equal(first[0], out[:1, :, :1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tanh_over_the_whole_range(extension: Kernels, dtype: torch.dtype) -> None:
    """With W = 0 the operator is its activation: within 3 ulp, plus half an ulp when stored.

    Denormals are zero, also in their sign.
    """
    x = _whole_range(dtype)
    actual = extension.forward(*_elementwise(x), RNN_TANH, 1)[0].flatten()
    normal = x.abs().double() >= torch.finfo(accumulation_dtype(dtype)).smallest_normal
    _assert_ulps(actual[normal], np.tanh(x[normal].double().numpy().astype(np.longdouble)))
    assert torch.equal(actual.signbit()[normal], x.signbit()[normal])
    assert not actual[~normal].count_nonzero()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sigmoid_over_the_whole_range(extension: Kernels, dtype: torch.dtype) -> None:
    """With W = 0 the gates of the LSTM are activations; below the normal numbers they are 0."""
    x = _whole_range(dtype)
    pre, weight_hh, h0, _ = _elementwise(x)
    given = arguments(weight_hh.expand(1, 4, 1), h0, DENSE, LSTM, c0=h0)
    results = extension.recurrence(pre.expand(-1, -1, -1, 4), given, save=True)
    exact = x.double().numpy().astype(np.longdouble)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-exact))
    smallest = torch.finfo(accumulation_dtype(dtype)).smallest_normal
    for gate in (0, 1, 3):
        actual = results.gates[..., gate].flatten()
        normal = torch.from_numpy((expected >= 2 * smallest).astype(bool))
        _assert_ulps(actual[normal], expected[normal.numpy()])
        assert bool((actual[~normal].double() <= 2 * smallest).all())


def _whole_range(dtype: torch.dtype) -> Tensor:
    exponents = torch.arange(-150.0 if dtype != torch.float16 else -24.0, 16)
    fractions = torch.linspace(1, 2, 129)[:-1]
    x = (2.0 ** exponents.double()[:, None] * fractions).flatten().to(dtype)
    return torch.cat([x, -x, torch.zeros(1, dtype=dtype)])


def _assert_ulps(actual: Tensor, expected: np.ndarray) -> None:
    computed = accumulation_dtype(actual.dtype)
    bound = 3 * _ulp(expected, computed)
    if actual.dtype != computed:
        bound += _ulp(expected, actual.dtype) / 2
    assert (abs(actual.double().numpy() - expected) <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_special_values(extension: Kernels, dtype: torch.dtype, activation: str) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0], dtype=dtype)
    code = CODES[RNN_MODES[activation]]
    actual = extension.forward(*_elementwise(x), code, 1)[0].flatten()
    expected = getattr(torch, activation)(x)
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [1, 19, 32, 45])
def test_padding_is_not_multiplied(extension: Kernels, dtype: torch.dtype, hidden: int) -> None:
    """An infinite unit makes all units of its row infinite; times a zero of padding it is NaN."""
    forward = Problem(4, 2, 1, hidden, activation="relu", dtype=dtype)
    pre, weight_hh, h0, ragged = forward.tensors()
    pre, h0 = torch.ones_like(pre), torch.ones_like(h0)
    weight_hh = torch.full_like(weight_hh, 1 / 64)
    pre[0, 0, 0, 0] = float("inf")
    out, h_n = extension.forward(pre, weight_hh, h0, ragged, *forward.options)
    assert bool((out[1:, 0] == float("inf")).all())
    assert bool(out[:, 1].isfinite().all())
    assert torch.equal(h_n, out[-1])

    backward = replace(forward, activation="tanh")
    out, grad_out = torch.zeros_like(pre), torch.ones_like(pre)
    grad_out[-1, 0, 0, 0] = float("inf")
    grads = grad_out, torch.zeros_like(h0)
    grad_pre, grad_h0 = extension.backward(*grads, out, weight_hh, h0, ragged, *backward.options)
    assert bool((grad_pre[:-1, 0] == float("inf")).all())
    assert bool((grad_h0[0] == float("inf")).all())
    assert bool(grad_pre[:, 1].isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("bad", ["pre", "h0", "grad_out", "grad_h_n"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_nan_and_infinity_propagate_as_in_autograd(
    module: Kernels, activation: str, bad: str, value: float
) -> None:
    """This holds for all numbers of steps and both directions. relu blocks both where h is 0."""
    for steps, reverse_from, hidden in [(1, 1, 19), (3, 1, 19), (3, 0, 19), (3, 1, 300)]:
        problem = Problem(steps, 2, 1, hidden, activation=activation, reverse_from=reverse_from)
        pre, weight_hh, h0, *ragged = problem.tensors()
        given = {"pre": pre, "h0": h0, "grad_out": torch.randn_like(pre)}
        given["grad_h_n"] = torch.randn_like(h0)
        given[bad][..., 0, :, :4] = value  # row 0; some of these units are 0 under relu
        grads = given["grad_out"], given["grad_h_n"]
        expected = _autograd(pre, weight_hh, h0, grads, activation, reverse_from == 0)
        rest = weight_hh, h0, *ragged, *problem.options
        actual = *module.forward(pre, *rest), *module.backward(*grads, expected[0], *rest)
        for got, wanted in zip(actual, expected, strict=True):
            torch.testing.assert_close(got, wanted, equal_nan=True)


def _autograd(
    pre: Tensor,  # [T, B, 1, H]
    weight_hh: Tensor,  # [1, H, H]
    h0: Tensor,  # [B, 1, H]
    grads: tuple[Tensor, Tensor],
    activation: str,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """Return out, h_n and the gradients of pre and h0 of a loop over torch's operations."""
    pre, h0 = pre.clone().requires_grad_(), h0.clone().requires_grad_()
    steps = range(len(pre))
    h, out = h0, {}
    for t in reversed(steps) if reverse else steps:
        h = out[t] = getattr(torch, activation)(pre[t] + h @ weight_hh[0].mT)
    results = torch.stack([out[t] for t in steps]), h
    return (*(x.detach() for x in results), *torch.autograd.grad(results, (pre, h0), grads))


def _ulp(x: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Return the spacing of a dtype's numbers around x."""
    eps, smallest = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal
    exponent = np.frexp(np.maximum(abs(x), smallest))[1] - 1
    return np.ldexp(np.longdouble(eps), exponent)


def _elementwise(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Ragged]:
    """Return arguments for which out is act(x): one unit per row, and a weight of 0."""
    pre = x.reshape(1, -1, 1, 1)
    return pre, pre.new_zeros(1, 1, 1), pre.new_zeros(x.numel(), 1, 1), DENSE
