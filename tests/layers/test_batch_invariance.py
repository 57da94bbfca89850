"""On the CPU, a row's bits do not depend on the number of steps, rows or threads."""

import platform
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastrnn
from fastrnn import FusedGRU, FusedLSTM, FusedRNN, functional
from fastrnn.ops import reference
from fastrnn.ops.backends import cpu
from fastrnn.ops.linear import linear
from fastrnn.testing import UNIT_ROUNDOFF

from ..utils.marks import requires_extension
from ..utils.nn_rnn_parity import tensors

pytestmark = requires_extension

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
INSTRUCTION_SETS = (
    [] if cpu.EXTENSION.unavailable_reason else cpu.EXTENSION.info["instruction_sets"]
)

quick = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=INSTRUCTION_SETS, autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Select each instruction set that this processor supports."""
    from fastrnn import _C

    best = _C.info()["instruction_set"]
    if not _C.use_instruction_set(request.param):
        pytest.skip(f"this processor lacks {request.param}")
    yield request.param
    assert _C.use_instruction_set(best)


@pytest.fixture
def kernels() -> Iterator[None]:
    """Run the kernels even where oneDNN is faster, such as in large calls in bfloat16."""
    with fastrnn.use_backend("cpu"):
        yield


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    former = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(former)


def stepped(rnn: Any, x: Tensor) -> list[Tensor]:
    """Run the sequence x [T, B, I] with one call per step; return output and last states."""
    hx, outputs = None, []
    for step in x:
        output, hx = rnn.step(step, hx)
        outputs.append(output)
    return [torch.stack(outputs), *tensors(hx)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ours", [FusedRNN, FusedLSTM, FusedGRU])
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"),
    [
        (9, 1, 5, 7),
        (5, 3, 17, 33),
        (4, 14, 1, 70),
        (30, 2, 24, 16),
        (3, 101, 9, 12),
        (2, 7, 4099, 5),
    ],
)
@pytest.mark.usefixtures("kernels")
@torch.no_grad()
def test_forward_is_bitwise_equal_to_steps_rows_and_prefixes(
    ours: Any, dtype: torch.dtype, threads: int, steps: int, batch: int, inputs: int, hidden: int
) -> None:
    """The bits of torch's layers depend on T and B: a stepped policy differs from the trained."""
    rnn = ours(inputs, hidden, 2, dtype=dtype)
    x = torch.randn(steps, batch, inputs, dtype=dtype)
    output, *last = tensors(rnn(x))
    assert all(map(torch.equal, [output, *last], stepped(rnn, x)))
    for rows in (slice(0, 1), slice(batch // 2, None), slice(0, batch - 1)):
        part = tensors(rnn(x[:, rows]))
        assert all(map(torch.equal, [t[:, rows] for t in (output, *last)], part))
    for prefix in (2, steps - 1):
        assert torch.equal(output[:prefix], rnn(x[:prefix])[0])
    lengths = torch.arange(batch) % (steps + 1)
    padded, *last = tensors(rnn(x, lengths=lengths))
    for b, length in enumerate(lengths.tolist()[:5]):
        assert torch.equal(padded[:length, b], output[:length, b])
        if length:
            states = stepped(rnn, x[:length, b])[1:]
            assert all(map(torch.equal, [h[:, b] for h in last], states))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("kernels")
@torch.no_grad()
def test_thread_count_does_not_change_results_of_larger_layers(dtype: torch.dtype) -> None:
    """The sizes are large enough for threads to share columns, rows and steps."""
    former = torch.get_num_threads()
    results = []
    cases = ((2, 3, 200, 520), (12, 1, 300, 300), (40, 30, 65, 129))
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            results.append(
                [
                    FusedRNN(inputs, hidden, dtype=dtype)(
                        torch.randn(steps, batch, inputs, dtype=dtype)
                    )[0]
                    for steps, batch, inputs, hidden in cases
                ]
            )
    finally:
        torch.set_num_threads(former)
    for other in results[1:]:
        for first, again in zip(results[0], other, strict=True):
            assert torch.equal(first, again)


@pytest.mark.parametrize("ours", [FusedRNN, FusedLSTM, FusedGRU])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_autograd_recording_does_not_change_results(steps: int, ours: Any) -> None:
    rnn, x = ours(6, 19), torch.randn(steps, 3, 6)
    results = tensors(rnn(x))
    with torch.no_grad():
        assert all(map(torch.equal, results, tensors(rnn(x))))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_against_float64(dtype: torch.dtype) -> None:
    """K products and a bias are summed in the accumulation dtype and rounded once."""
    accumulation = reference.accumulation_dtype(dtype)

    @quick
    @given(
        st.integers(0, 110),
        st.integers(0, 70),
        st.integers(1, 80),
        st.booleans(),
        st.booleans(),
        st.integers(0, 1 << 20),
    )
    def run(m: int, k: int, n: int, bias: bool, strided: bool, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shapes = ((m, k), (n, k), (n,))
        x, weight, b = (
            torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for shape in shapes
        )
        if strided:
            x, weight = x.mT.contiguous().mT, weight.mT.contiguous().mT
        actual = torch.ops.fastrnn.linear(x, weight, b if bias else None)
        terms = (b.double() if bias else torch.zeros(n).double()).expand(m, n)
        expected = x.double() @ weight.double().mT + terms
        magnitude = x.double().abs() @ weight.double().abs().mT + terms.abs()
        # k + 1 roundings change a sum by at most twice their number times the roundoff. The factor
        # of two also covers the float64 sum that serves as the reference.
        bound = 2 * (k + 1) * UNIT_ROUNDOFF[accumulation] * magnitude
        if accumulation != dtype:
            bound = bound + UNIT_ROUNDOFF[dtype] * (expected.abs() + bound)
            bound = bound + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        assert actual.shape == (m, n)
        assert actual.dtype == dtype
        assert ((actual.double() - expected).abs() <= bound).all()

    run()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [(300, 40, 37), (130, 260, 16), (7, 600, 9), (40, 8200, 19)]
)
def test_a_row_of_linear_does_not_depend_on_the_others(
    dtype: torch.dtype, threads: int, rows: int, depth: int, columns: int
) -> None:
    x, weight = torch.randn(rows, depth).to(dtype), torch.randn(columns, depth).to(dtype)
    bias = torch.randn(columns).to(dtype)
    whole = torch.ops.fastrnn.linear(x, weight, bias)
    for count in range(1, 14):
        assert torch.equal(torch.ops.fastrnn.linear(x[-count:], weight, bias), whole[-count:])
    assert torch.equal(torch.ops.fastrnn.linear(x[5], weight, bias), whole[5])
    assert torch.equal(torch.ops.fastrnn.linear(x[:, None], weight, bias)[:, 0], whole)


@pytest.mark.parametrize("rows", [1, 2, 9, 300])
def test_sums_of_many_terms_keep_their_digits(rows: int) -> None:
    """Added one by one to a bias of 2**24, every term would be lost. Later sums begin at 0."""
    terms = 10_000
    x, weight, bias = torch.ones(rows, terms), torch.ones(40, terms), torch.full((40,), 2.0**24)
    later = terms - 4096  # those of the first sum begin at the bias
    assert (linear(x, weight, bias) == 2**24 + later).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 120])
def test_special_values_stay_in_their_rows_and_columns(dtype: torch.dtype, rows: int) -> None:
    """Padding is not multiplied: no product of an infinity and a zero of the padding occurs."""
    x, weight = torch.ones(rows, 13, dtype=dtype), torch.ones(19, 13, dtype=dtype)
    x[rows - 1, 12] = float("inf")
    weight[18, 3] = float("nan")
    result = torch.ops.fastrnn.linear(x, weight, None)
    expected = torch.full((rows, 19), 13.0, dtype=dtype)
    expected[rows - 1] = float("inf")
    expected[:, 18] = float("nan")
    assert torch.equal(result.nan_to_num(-1), expected.nan_to_num(-1))


def test_gradients_of_linear() -> None:
    given = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 4), (5, 4), (5,))
    ]
    assert torch.autograd.gradcheck(linear, given)
    assert torch.autograd.gradgradcheck(linear, given)
    assert torch.autograd.gradcheck(torch.ops.fastrnn.linear, given)
    linear(given[0].detach(), given[1].detach(), given[2]).sum().backward()
    assert given[0].grad is None
    assert given[1].grad is None
    assert torch.equal(given[2].grad, torch.full((5,), 6.0, dtype=torch.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [False, True])
def test_opcheck_of_linear(bias: bool) -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    weight = torch.randn(5, 4, requires_grad=True)
    arguments = (x, weight, torch.randn(5, requires_grad=True) if bias else None)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.fastrnn.linear.default, arguments, test_utils=checks)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        (torch.ones(2, 3), torch.ones(4, 2), None, "input"),
        (torch.ones(2, 3), torch.ones(4, 3), torch.ones(3), "bias has the wrong shape"),
        (torch.ones(2, 3), torch.ones(4, 3).double(), None, "weight has the wrong dtype"),
    ],
)
def test_linear_rejects_invalid_arguments(x, weight, bias, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastrnn.linear(x, weight, bias)


def test_linear_falls_back_to_torch_under_transforms_or_another_backend() -> None:
    """functorch and forward-mode gradients do not support the operator."""
    x, weight, bias = torch.randn(4, 3), torch.randn(5, 3), torch.randn(5)
    expected = torch.nn.functional.linear(x, weight, bias)
    with fastrnn.use_backend("reference"):
        assert torch.equal(linear(x, weight, bias), expected)
    tangent = torch.func.jvp(lambda x: linear(x, weight, bias), (x,), (x,))[1]
    torch.testing.assert_close(tangent, x @ weight.mT)
    batched = torch.vmap(lambda x: linear(x, weight, bias))(x)
    torch.testing.assert_close(batched, expected)


@torch.no_grad()
def test_one_step_in_functional_rnn_under_forward_mode() -> None:
    """Where no kernel can run, torch's own operations run a single step."""
    weights = [torch.randn(3, 2), torch.randn(3, 3)]
    x = torch.randn(1, 2, 2)
    with fastrnn.use_backend("auto"):
        expected = functional.rnn(x, None, weights, bias=False)[0]
    actual = torch.func.vmap(lambda x: functional.rnn(x[None], None, weights, bias=False)[0])(x)
    torch.testing.assert_close(actual[0], expected)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 100])
@pytest.mark.parametrize("columns", [3, 16, 70])
def test_every_multiply_add_rounds_once(instruction_set: str, rows: int, columns: int) -> None:
    """Without explicit fused multiply-adds, a compiler may round twice in some tiles only."""
    if instruction_set == "baseline" and platform.machine() in ("x86_64", "AMD64"):
        pytest.skip("SSE2 has no fused multiply-add")
    x, w, b = torch.randn(rows, 1), torch.randn(columns, 1), torch.randn(columns)
    exact = x.double() * w.double().T + b.double()
    assert torch.equal(linear(x, w, b), exact.float())
