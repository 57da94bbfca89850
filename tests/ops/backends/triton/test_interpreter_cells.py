"""Run the Triton kernels of cells that save gates in Triton's interpreter on the CPU.

test_interpreter.py does the same for nn.RNN's cells, and lists what the interpreter cannot test.
"""

import functools
import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastrnn
from fastrnn.ops.arguments import Arguments, Outputs, State
from fastrnn.ops.backends import dispatch, triton
from fastrnn.ops.backends.triton.table import TABLE
from fastrnn.ops.cells.base import Step
from fastrnn.ops.reference import forward as reference_forward
from fastrnn.testing import Problem

from ....utils.cells import LEAKY, leaves
from ....utils.checks import RECURRENCE_CHECKS
from ....utils.nn_rnn_parity import paired_layers
from ....utils.strategies import SIZES, problems

pytest.importorskip("triton")
if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("needs TRITON_INTERPRET=1, which `make test` sets", allow_module_level=True)
if (reason := triton.BACKEND.unavailable_reason()) is not None:
    pytest.skip(reason, allow_module_level=True)

KERNELS = ("rows", "single_cta")
KINDS = ("LSTM", "GRU", *LEAKY)

slow = functools.partial(pytest.param, marks=pytest.mark.slow)

#: The kernels share their loop, and `rows` takes longer here: one program per row.
EACH_KERNEL = pytest.mark.parametrize("kernel", ["single_cta", slow("rows")])
EACH_KIND = pytest.mark.parametrize("kind", KINDS)

#: Problems in float32: in half precision the bounds of LSTM and GRU are loose, see
#: `fastrnn.testing.tolerance`.
SMALL = [
    Problem(3, 2, 2, 5, "packed", "tanh", 1, torch.float32, seed=1, resets=True),
    Problem(1, 1, 1, 1, "dense", "relu", 0, torch.float32),
    slow(Problem(4, 3, 2, 17, "lengths", "relu", 1, torch.float32, resets=True)),
]


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the memory of results with NaN."""
    make = Tensor.new_empty

    def new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
        x = make(self, *size, **options)
        return x.fill_(torch.nan) if x.is_floating_point() else x

    monkeypatch.setattr(Tensor, "new_empty", new_empty)


@pytest.mark.parametrize("problem", SMALL, ids=["packed", "smallest", "lengths"])
@pytest.mark.parametrize("check", RECURRENCE_CHECKS)
@EACH_KIND
@pytest.mark.parametrize("kernel", KERNELS)
def test_small_problems(kernel: str, kind: str, check, problem: Problem) -> None:
    check(triton.BACKEND, replace(problem, kind=kind), kernel=kernel)


@st.composite
def supported(draw: st.DrawFn, kernel: str, kind: str) -> Problem:
    """Draw a problem that a kernel supports, with few rows, which take long here."""
    gates = Problem(1, 1, 1, 1, kind=kind).cell.gates
    limit = max(row.hidden for row in TABLE if row.kernel == kernel and gates in row.gates)
    hidden = draw(SIZES | st.integers(1, limit))
    batch = draw(st.integers(0, 4 if kernel == "rows" else 20))
    dtype = draw(st.sampled_from([torch.float32, torch.float16]))
    sizes = {"steps": draw(st.integers(1, 6)), "batch": batch, "hidden": min(hidden, limit)}
    return draw(problems(kind=kind, dtype=dtype, **sizes))


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(4, marks=pytest.mark.slow),
        pytest.param(200, marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("check", RECURRENCE_CHECKS)
@EACH_KIND
@pytest.mark.parametrize("kernel", KERNELS)
def test_random_problems(kernel: str, kind: str, check, count: int) -> None:
    @settings(
        deadline=None,
        max_examples=count,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(supported(kernel, kind))
    def run(problem: Problem) -> None:
        check(triton.BACKEND, problem, kernel=kernel)

    run()


PROBLEM = Problem(3, 3, 2, 10, "lengths", dtype=torch.float32, resets=True)


@EACH_KIND
@EACH_KERNEL
def test_gates_can_overwrite_pre(kernel: str, kind: str) -> None:
    pre, arguments = replace(PROBLEM, kind=kind).inputs()
    expected = triton.BACKEND.recurrence(pre, arguments, save=True, kernel=kernel)
    out, _, c_n, _, inner = (x if x is None else torch.empty_like(x) for x in expected)
    assert out is not None
    h_n = triton.BACKEND.recurrence_out(pre, arguments, out, c_n, pre, inner, kernel=kernel)
    for actual, wanted in zip((out, h_n, c_n, pre, inner), expected, strict=True):
        assert actual is wanted is None or torch.equal(actual, wanted)


@pytest.mark.parametrize("kind", LEAKY)
@EACH_KERNEL
def test_out_can_overwrite_pre_of_one_gate(kernel: str, kind: str) -> None:
    """Without saved gates, and with an input whose rows are not adjacent."""
    pre, arguments = replace(PROBLEM, kind=kind).inputs()
    expected = triton.BACKEND.recurrence(
        pre.transpose(0, 1).contiguous().transpose(0, 1), arguments, save=False, kernel=kernel
    )
    assert expected.gates is expected.inner is None
    c_n = None if expected.c_n is None else torch.empty_like(expected.c_n)
    h_n = triton.BACKEND.recurrence_out(pre, arguments, pre, c_n, kernel=kernel)
    assert torch.equal(pre, expected.out)
    assert torch.equal(h_n, expected.h_n)
    assert c_n is expected.c_n or torch.equal(c_n, expected.c_n)


@EACH_KIND
@EACH_KERNEL
def test_absent_arguments_are_zeros(kernel: str, kind: str) -> None:
    """Start states, b_hn and the gradient of c_n; a start state without resets has no gradient."""
    pre, arguments = replace(PROBLEM, kind=kind).inputs()
    zero = torch.zeros_like
    absent = arguments._replace(reset_h=None, reset_c=None)
    reset_c = None if arguments.c0 is None else zero(arguments.c0)
    zeros = arguments._replace(reset_h=zero(arguments.h0), reset_c=reset_c)
    if kind == "GRU":
        assert arguments.unit_param is not None
        absent = absent._replace(unit_param=None)
        zeros = zeros._replace(unit_param=zero(arguments.unit_param))
    results = [triton.BACKEND.recurrence(pre, x, save=True, kernel=kernel) for x in (absent, zeros)]
    for one, other in zip(*results, strict=True):
        assert one is other is None or torch.equal(one, other)
    gradients = [_backward(x, results[0], kernel, with_c=x is zeros) for x in (absent, zeros)]
    for one, other in list(zip(*gradients, strict=True))[:4]:
        assert one is other is None or torch.equal(one, other)
    assert gradients[0][4:] == (None, None)
    without_resets = _backward(arguments._replace(resets=None), results[0], kernel, with_c=False)
    for gradient in without_resets[4:]:
        assert gradient is None or not gradient.count_nonzero()


def _backward(arguments: Arguments, results: Outputs, kernel: str, with_c: bool) -> Any:
    grad_c_n = torch.zeros_like(arguments.h0) if with_c and arguments.c0 is not None else None
    grads = Outputs(torch.ones_like(results.out), torch.ones_like(results.h_n), grad_c_n)
    saved = Step(State(results.out), results.gates, results.inner)
    return triton.BACKEND.recurrence_backward(grads, saved, arguments, kernel=kernel)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")
@EACH_KIND
@EACH_KERNEL
def test_nan_does_not_cross_a_reset_or_reach_other_rows(kernel: str, kind: str) -> None:
    """In groups of both directions, forward and backward; nor from padding."""
    problem = Problem(4, 3, 2, 10, dtype=torch.float32, kind=kind, resets=True)
    pre, arguments = problem.inputs()
    resets = torch.zeros(4, 3, dtype=torch.bool)
    resets[2] = True
    arguments = arguments._replace(lengths=torch.tensor([4, 4, 3]), resets=resets)
    clean = triton.BACKEND.recurrence(pre, arguments, save=True, kernel=kernel)
    poisoned = pre.clone()
    poisoned[:2, 0] = poisoned[3, 2] = torch.nan
    results = triton.BACKEND.recurrence(poisoned, arguments, save=True, kernel=kernel)
    assert results.out[:2, 0, :1].isnan().all()
    for one, other in zip(results, clean, strict=True):
        if one is not None and one.shape[0] == 4:
            assert torch.equal(one[2:, 0], other[2:, 0])
            assert torch.equal(one[:, 1:], other[:, 1:])

    saved = Step(State(clean.out), clean.gates, clean.inner)
    grads = Outputs(*(x if x is None else torch.ones_like(x) for x in clean[:3]))
    expected = triton.BACKEND.recurrence_backward(grads, saved, arguments, kernel=kernel)
    grads.out[:2, 0] = grads.out[3, 2] = torch.nan
    padded = Step(*_with_nan_in_padding(saved))
    gradients = triton.BACKEND.recurrence_backward(grads, padded, arguments, kernel=kernel)
    assert gradients.pre[:2, 0].isnan().all()
    assert torch.equal(gradients.pre[2:, 0], expected.pre[2:, 0])
    assert torch.equal(gradients.pre[:, 1:], expected.pre[:, 1:])
    assert torch.equal(gradients.h0[1:], expected.h0[1:])


def _with_nan_in_padding(saved: Step) -> list[Any]:
    given = [x if x is None else x.clone() for x in (saved.state.h, saved.gates, saved.inner)]
    for x in given:
        if x is not None:
            x[3, 2] = torch.nan
    return [State(given[0]), *given[1:]]


@pytest.mark.parametrize("ours", [fastrnn.FusedLSTM, fastrnn.FusedGRU])
def test_a_layer_matches_torchs(ours: type[torch.nn.Module]) -> None:
    """Outputs and gradients of a bidirectional layer, through the operator and its autograd."""
    ours, theirs = paired_layers(5, 12, ours=ours, bidirectional=True)
    x = torch.randn(3, 2, 5)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 1]))
    results = []
    for layer in (ours, theirs):
        with fastrnn.use_backend("triton"):
            output, last = layer(packed)
            states = last if isinstance(last, tuple) else (last,)
            (output.data.sin().sum() + sum(x.cos().sum() for x in states)).backward()
        results.append([output.data, *states, *(p.grad for p in layer.parameters())])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[:2])
def test_opcheck(kind: str) -> None:
    problem = Problem(3, 2, 2, 4, "packed", dtype=torch.float32, resets=True, kind=kind)
    real, complete = leaves(problem)
    pre, arguments = complete(*real)
    inputs = (pre, *arguments, True, dispatch.NAMES.index("triton"))
    torch.library.opcheck(torch.ops.fastrnn.recurrence_by.default, inputs)


def test_unsupported_sizes_raise() -> None:
    pre, arguments = Problem(2, 1, 1, 65, dtype=torch.float32, kind="LSTM").inputs()
    with pytest.raises(RuntimeError, match=r"kernels for LSTM .* H <= 64 .* not H = 65"):
        dispatch.forward(pre, *arguments, False, name="triton")
    with pytest.raises(ValueError, match=r"grid kernel serves nn\.RNN's cells only"):
        triton.BACKEND.recurrence(pre, arguments, save=False, kernel="grid")


@EACH_KERNEL
def test_two_calls_are_bitwise_equal(kernel: str) -> None:
    pre, arguments = replace(PROBLEM, kind="LSTM").inputs()
    results = reference_forward(pre, arguments)
    first, again = (_backward(arguments, results, kernel, with_c=False) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one is other is None or torch.equal(one, other)
