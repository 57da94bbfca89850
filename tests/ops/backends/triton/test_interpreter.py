"""Run the Triton kernels in Triton's interpreter on the CPU.

The interpreter runs one program after another. It cannot test races, the rounding of tensor cores,
the hardware's tanh, bfloat16 (it computes wrong products), or programs that wait for each other:
`grid` runs one launch per step here.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn.functional import recurrence
from fastrnn.ops.backends import dispatch, triton
from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.ops.cells import CODES, RNN_MODES, RNN_RELU
from fastrnn.ops.ragged import DENSE, Ragged
from fastrnn.testing import UNIT_ROUNDOFF, Problem, Tensors, assert_close

from ....utils.cells import leaves
from ....utils.checks import CHECKS, biggest, check_special_gradients, double
from ....utils.nn_rnn_parity import paired_layers
from ....utils.strategies import problems

pytest.importorskip("triton")
if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("needs TRITON_INTERPRET=1, which `make test` sets", allow_module_level=True)
if (reason := triton.BACKEND.unavailable_reason()) is not None:
    pytest.skip(reason, allow_module_level=True)

from triton.runtime.interpreter import InterpreterBuilder

DTYPES = [torch.float32, torch.float16]


@pytest.fixture(autouse=True)
def only_boolean_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that all masks are boolean; from Triton 3.9 on, the interpreter rejects integers."""
    for name, position in (("create_masked_load", 1), ("create_masked_store", 2)):
        monkeypatch.setattr(InterpreterBuilder, name, _with_boolean_mask(name, position))


def _with_boolean_mask(name: str, position: int) -> Callable[..., Any]:
    method = getattr(InterpreterBuilder, name)

    def access(builder: Any, *arguments: Any, **options: Any) -> Any:
        assert arguments[position].data.dtype == bool
        return method(builder, *arguments, **options)

    return access


@pytest.fixture(
    params=[
        "rows",
        "single_cta",
        "grid resident",
        pytest.param("grid streamed", marks=pytest.mark.slow),
    ]
)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a kernel; for grid, allow only one of its forms."""
    name, _, form = request.param.partition(" ")
    if form:
        from fastrnn.ops.backends.triton import grid

        every = grid.configurations
        wanted = form == "resident"
        monkeypatch.setattr(
            grid, "configurations", lambda s: [c for c in every(s) if c["RESIDENT"] == wanted]
        )
    return name


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.exhaustive)])
def test_random_problems(kernel: str, check, dtype: torch.dtype, count: int) -> None:
    # The interpreter takes about 1 ms per program and step, and `rows` has one program per row.
    rows = st.integers(0, 4 if kernel == "rows" else 20)

    @settings(
        deadline=None,
        max_examples=count,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        steps = data.draw(st.integers(1, 6))
        problem = data.draw(problems(dtype=dtype, batch=data.draw(rows), steps=steps))
        check(triton.BACKEND, problem, kernel=kernel)

    run()


@pytest.mark.parametrize(
    "layout",
    [
        "packed",
        pytest.param("dense", marks=pytest.mark.slow),
        pytest.param("lengths", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("check", CHECKS)
def test_larger_shapes(kernel: str, check, layout: str) -> None:
    shapes = [(40, 1, 1, 3), (1, 1, 1, 1)]
    if kernel != "rows":  # which supports no larger shapes, and is slow here
        shapes += [(3, 2, 3, 129), (2, 70, 1, 16)]  # padded to 256; a partial last tile
    for shape in shapes:
        check(triton.BACKEND, Problem(*shape, layout, dtype=torch.float32), kernel=kernel)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_every_batch_tile(check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Includes configurations that are otherwise chosen only for large batches on a GPU."""
    from fastrnn.ops.backends.triton import grid, single_cta
    from fastrnn.ops.backends.triton.table import Sizes

    problem = Problem(4, 37, 2, 34, "packed", dtype=torch.float16)
    sizes = Sizes(problem.batch, problem.groups, problem.hidden, "half")
    tiled = single_cta.configuration(sizes._replace(processors=1))
    assert tiled["ROWS"] == 32
    monkeypatch.setattr(single_cta, "configuration", lambda _: tiled)
    check(triton.BACKEND, problem, kernel="single_cta")
    every = list(grid.configurations(sizes))
    assert {(c["RESIDENT"], c["ROWS"]) for c in every} == {
        (True, 16),
        (True, 32),
        (False, 16),
        (False, 32),
    }
    for configuration in every:
        monkeypatch.setattr(grid, "configurations", lambda _, only=configuration: [only])
        check(triton.BACKEND, problem, kernel="grid")


PROBLEM = Problem(steps=5, batch=5, groups=2, hidden=20, layout="lengths", dtype=torch.float32)


def test_two_calls_are_bitwise_equal(kernel: str) -> None:
    arguments = (*PROBLEM.tensors(), *PROBLEM.options)
    first, again = (triton.BACKEND.forward(*arguments, kernel=kernel) for _ in range(2))
    grads = torch.randn_like(first[0]), torch.randn_like(first[1])
    back = [
        triton.BACKEND.backward(*grads, first[0], *arguments[1:], kernel=kernel) for _ in range(2)
    ]
    for one, other in zip((*first, *back[0]), (*again, *back[1]), strict=True):
        assert torch.equal(one, other)


def test_a_row_does_not_depend_on_the_others(kernel: str) -> None:
    pre, weight_hh, h0, ragged = PROBLEM.tensors()
    lengths = ragged.lengths
    assert lengths is not None
    options = PROBLEM.options
    out, h_n = triton.BACKEND.forward(pre, weight_hh, h0, ragged, *options, kernel=kernel)
    for b in range(PROBLEM.batch):
        row = slice(b, b + 1)
        arguments = pre[:, row], weight_hh, h0[row], Ragged(lengths[row])
        alone = triton.BACKEND.forward(*arguments, *options, kernel=kernel)
        assert torch.equal(alone[0], out[:, row])
        assert torch.equal(alone[1], h_n[row])


def test_padding_is_not_read(kernel: str) -> None:
    """NaN in pre, grad_out and out at inactive steps does not change the results."""
    pre, weight_hh, h0, ragged = PROBLEM.tensors()
    lengths = ragged.lengths
    assert lengths is not None
    inactive = (torch.arange(PROBLEM.steps)[:, None] >= lengths)[:, :, None, None]
    rest = (ragged, *PROBLEM.options)
    out, h_n = triton.BACKEND.forward(pre, weight_hh, h0, *rest, kernel=kernel)
    poisoned = pre.masked_fill(inactive, float("nan"))
    assert torch.equal(
        triton.BACKEND.forward(poisoned, weight_hh, h0, *rest, kernel=kernel)[0], out
    )
    grads = torch.randn_like(out), torch.randn_like(h_n)
    clean = triton.BACKEND.backward(*grads, out, weight_hh, h0, *rest, kernel=kernel)
    grad_out, out = (x.masked_fill(inactive, float("nan")) for x in (grads[0], out))
    again = triton.BACKEND.backward(grad_out, grads[1], out, weight_hh, h0, *rest, kernel=kernel)
    assert torch.equal(clean[0], again[0])
    assert torch.equal(clean[1], again[1])


@pytest.mark.slow  # test_emulated.py has quick ones
@pytest.mark.parametrize("layout", ["dense", "lengths", "packed"])
@pytest.mark.parametrize("check", CHECKS)
def test_resets(kernel: str, check, layout: str) -> None:
    """At random steps and at every step, including steps after the end of a row."""
    for kind, shape in ((Problem, (5, 3, 2, 20)), (Everywhere, (3, 2, 2, 3))):
        check(triton.BACKEND, kind(*shape, layout, dtype=torch.float32, resets=True), kernel=kernel)


class Everywhere(Problem):
    """A problem with a reset of every row at every step."""

    def tensors(self, device: torch.device | str = "cpu") -> Tensors:
        tensors = super().tensors(device)
        resets = tensors.ragged.resets
        assert resets is not None
        ragged = tensors.ragged._replace(resets=torch.ones_like(resets))
        return tensors._replace(ragged=ragged)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("poisoned_steps", [slice(0, 2), slice(2, 4)], ids=["before", "after"])
def test_nan_does_not_cross_a_reset(kernel: str, poisoned_steps: slice) -> None:
    """In groups of both directions, forward and backward."""
    problem = Problem(steps=4, batch=2, groups=2, hidden=20, dtype=torch.float32, reverse_from=1)
    pre, weight_hh, h0, *_ = problem.tensors()
    resets = torch.zeros(4, 2, dtype=torch.bool)
    resets[2] = True
    clean_steps = slice(2, 4) if poisoned_steps.start == 0 else slice(0, 2)
    rest = (weight_hh, h0, Ragged(resets=resets), *problem.options)
    out, h_n = triton.BACKEND.forward(pre, *rest, kernel=kernel)
    poisoned = pre.clone()
    poisoned[poisoned_steps] = torch.nan
    results = triton.BACKEND.forward(poisoned, *rest, kernel=kernel)[0]
    assert results[poisoned_steps].isnan().all()
    assert torch.equal(results[clean_steps], out[clean_steps])
    grads = torch.randn_like(out), torch.randn_like(h_n)
    clean = triton.BACKEND.backward(*grads, out, *rest, kernel=kernel)[0]
    grads[0][poisoned_steps] = torch.nan
    results = triton.BACKEND.backward(*grads, out, *rest, kernel=kernel)[0]
    assert results[poisoned_steps].isnan().all()
    assert torch.equal(results[clean_steps], clean[clean_steps])


@pytest.mark.parametrize("transpose", [False, True])
def test_forward_out_can_overwrite_pre(transpose: bool) -> None:
    pre, *rest = *dataclasses.replace(PROBLEM, resets=True).tensors(), *PROBLEM.options
    expected = triton.BACKEND.forward(pre, *rest)
    out = pre
    if transpose:  # out cannot be pre if pre is not contiguous
        out, pre = torch.empty_like(pre), pre.transpose(0, 1).contiguous().transpose(0, 1)
    h_n = triton.BACKEND.forward_out(out, pre, *rest)
    assert torch.equal(out, expected[0])
    assert torch.equal(h_n, expected[1])


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.float32, marks=pytest.mark.slow)], ids=str
)
def test_tanh_over_the_whole_range(dtype: torch.dtype) -> None:
    """With W = 0 the operator is its activation, accurate to a few roundings everywhere."""
    exponents = torch.arange(-126.0 if dtype != torch.float16 else -14.0, 16)
    fractions = torch.linspace(1, 2, 33)[:-1]
    x = (2.0 ** exponents.double()[:, None] * fractions).flatten().to(dtype)
    x = torch.cat([x, -x, torch.zeros(256, dtype=dtype)])
    actual = _activated(x, "tanh")
    expected = torch.tanh(x.double())
    bound = (5 * UNIT_ROUNDOFF[torch.float32] + UNIT_ROUNDOFF[dtype]) * expected.abs()
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert ((actual.double() - expected).abs() <= bound + smallest).all()
    assert torch.equal(actual.signbit()[x != 0], x.signbit()[x != 0])


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_special_values(dtype: torch.dtype, activation: str) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0], dtype=dtype)
    expected = getattr(torch, activation)(x)
    torch.testing.assert_close(
        _activated(x, activation), expected, equal_nan=True, rtol=1e-3, atol=0
    )


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
def test_overflow_stays_infinite(kernel: str) -> None:
    """An infinite state must not be multiplied by the zeros that pad W_hh, which gives NaN."""
    weight_hh = torch.full((1, 3, 3), 100.0, dtype=torch.float16)
    pre, h0 = torch.ones(4, 1, 1, 3, dtype=torch.float16), torch.ones(1, 1, 3, dtype=torch.float16)
    rest = (weight_hh, h0, DENSE, RNN_RELU, 1)
    expected = reference.forward(pre, *rest)
    assert expected[0].isinf().any()
    out, h_n = triton.BACKEND.forward(pre, *rest, kernel=kernel)
    assert torch.equal(out, expected[0])
    assert torch.equal(h_n, expected[1])
    rest = (100 * pre, h0, torch.ones_like(pre), *rest)
    for actual, wanted in zip(
        triton.BACKEND.backward(*rest, kernel=kernel), reference.backward(*rest), strict=True
    ):
        assert wanted.isinf().any()
        assert torch.equal(actual, wanted)


def test_special_relu_gradients(kernel: str) -> None:
    check_special_gradients(triton.BACKEND, torch.float32, kernel=kernel)


def _activated(x: torch.Tensor, activation: str) -> torch.Tensor:
    """Return act(x), computed by one step with one unit per row."""
    pre = x.reshape(1, -1, 1, 1)
    weight_hh, h0 = pre.new_zeros(1, 1, 1), pre.new_zeros(x.numel(), 1, 1)
    arguments = (pre, weight_hh, h0, DENSE, CODES[RNN_MODES[activation]], 1)
    return triton.BACKEND.forward(*arguments, kernel="single_cta")[0].flatten()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_matches_nn_rnn(bidirectional: bool, packed: bool) -> None:
    """Outputs and gradients, through the operator and its autograd."""
    ours, theirs = paired_layers(5, 12, num_layers=2, bidirectional=bidirectional)
    x = torch.randn(6, 3, 5)
    results = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        data = leaf
        if packed:
            data = torch.nn.utils.rnn.pack_padded_sequence(leaf, torch.tensor([6, 4, 1]))
        with fastrnn.use_backend("triton"):
            output, h_n = layer(data)
            output = output.data if packed else output
            (output.sin().sum() + h_n.cos().sum()).backward()
        results.append([output, h_n, leaf.grad, *(p.grad for p in layer.parameters())])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layout", ["packed", *(pytest.param(x, marks=pytest.mark.slow) for x in ("dense", "lengths"))]
)
def test_opcheck(layout: str) -> None:
    problem = Problem(3, 2, 2, 4, layout, dtype=torch.float32, resets=layout != "dense")
    real, complete = leaves(problem)
    pre, arguments = complete(*real)
    inputs = (pre, *arguments, False, dispatch.NAMES.index("triton"))
    torch.library.opcheck(torch.ops.fastrnn.recurrence_by.default, inputs)


def test_second_derivatives_match_the_reference() -> None:
    """The reference differentiates twice, from the results of the kernels."""
    problem = Problem(3, 2, 1, 4, dtype=torch.float32)
    pre, weight_hh, h0, *_ = problem.tensors()
    leaf = weight_hh.requires_grad_()
    hessian = []
    for name in ("triton", "reference"):
        with fastrnn.use_backend(name):
            out, _ = recurrence(pre, leaf, h0)
            (first,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
            hessian += torch.autograd.grad(first.square().sum(), leaf)
    torch.testing.assert_close(*hessian, rtol=1e-5, atol=1e-5)


def test_calls_without_a_kernel_name_use_the_table() -> None:
    for hidden in (8, 100, 140):
        problem = Problem(3, 2, 1, hidden, dtype=torch.float16)
        pre, weight_hh, h0, *_ = problem.tensors()
        with fastrnn.use_backend("triton"):
            out, _ = recurrence(pre, weight_hh, h0)
        expected = reference.forward(*double(pre, weight_hh, h0), DENSE, *problem.options)
        assert_close(out, expected[0], problem, biggest(pre, h0, expected[0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_unsupported_dtypes_raise(dtype: torch.dtype) -> None:
    pre, weight_hh, h0, *_ = Problem(2, 1, 1, 3, dtype=dtype).tensors()
    with (
        fastrnn.use_backend("triton"),
        pytest.raises(RuntimeError, match=r"'triton' backend cannot serve.*(float64|bfloat16)"),
    ):
        recurrence(pre, weight_hh, h0)
