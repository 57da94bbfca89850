"""The CPU kernels compute with denormal numbers as with zero: csrc/cpu/flush_denormals.h."""

import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastrnn.ops import reference
from fastrnn.ops.arguments import Outputs, State
from fastrnn.ops.backends import cpu
from fastrnn.ops.cells import RNN_RELU, RNN_TANH
from fastrnn.ops.cells.base import Step
from fastrnn.ops.ragged import DENSE
from fastrnn.testing import Problem
from tests.cpp.build import build_program
from tests.utils.cells import KINDS, LEAKY
from tests.utils.marks import requires_extension

pytestmark = [
    requires_extension,
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64", "aarch64", "arm64"),
        reason="on this processor the kernels do not change the mode",
    ),
]

INSTRUCTION_SETS = (
    [] if cpu.EXTENSION.unavailable_reason else cpu.EXTENSION.info["instruction_sets"]
)

#: By storage dtype, a number that is denormal in it and in the dtype of computation.
DENORMALS = {torch.float64: 1e-310, torch.float32: 1e-40, torch.bfloat16: 1e-40}

#: (B, H) of a call of 1200 steps: on one thread, by a team, and by two tiles.
SIZES = [(1, 3), (1, 256), (40, 33)]


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    from fastrnn import _C

    best = _C.info()["instruction_set"]
    if not _C.use_instruction_set(request.param):
        pytest.skip(f"this processor lacks {request.param}")
    yield
    assert _C.use_instruction_set(best)


@pytest.fixture
def two_threads() -> Iterator[None]:
    former = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(former)


@pytest.mark.slow
def test_the_mode_and_the_conversions(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Includes every half-precision number, and an exception that ends a task."""
    program = build_program(tmp_path_factory, "denormals.cpp", "-O2")
    run = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.usefixtures("instruction_set", "two_threads")
@pytest.mark.parametrize("dtype", DENORMALS, ids=str)
@pytest.mark.parametrize(
    ("kind", "activation"), [("RNN", "relu"), *((kind, "tanh") for kind in (*KINDS, *LEAKY))]
)
def test_denormal_inputs_are_zero(kind: str, activation: str, dtype: torch.dtype) -> None:
    """The reference's results are below the smallest normal number, so this is the error bound."""
    problem = Problem(5, 3, 2, 19, dtype=dtype, kind=kind, activation=activation)
    pre, given = problem.inputs()

    def denormal(x: Tensor | None) -> Tensor | None:
        return None if x is None else torch.full_like(x, DENORMALS[dtype])

    pre, given = torch.full_like(pre, DENORMALS[dtype]), given._replace(h0=denormal(given.h0))
    given = given._replace(c0=denormal(given.c0))
    if kind == "GRU":  # b_hn; elsewhere it is a leak
        given = given._replace(unit_param=denormal(given.unit_param))
    results = cpu.BACKEND.recurrence(pre, given, save=True)
    _assert_flushed(results[:3], reference.forward(pre, given)[:3])

    grads = Outputs(*map(denormal, results[:3]))
    saved = Step(State(results.out), results.gates, results.inner)
    _assert_flushed(
        cpu.BACKEND.recurrence_backward(grads, saved, given),
        reference.backward(grads, saved, given),
    )


def _assert_flushed(actual: tuple[Tensor | None, ...], exact: tuple[Tensor | None, ...]) -> None:
    for got, wanted in zip(actual, exact, strict=True):
        assert (got is None) == (wanted is None)
        if got is not None and wanted is not None:
            assert not got.count_nonzero()
            assert wanted.abs().max() < torch.finfo(got.dtype).smallest_normal


@pytest.mark.usefixtures("instruction_set", "two_threads")
@pytest.mark.parametrize("dtype", DENORMALS, ids=str)
@pytest.mark.parametrize(("batch", "hidden"), SIZES)
def test_a_decaying_state_or_gradient_ends_at_zero(
    batch: int, hidden: int, dtype: torch.dtype
) -> None:
    """Halving is exact down to the smallest normal number."""
    steps = 1200
    pre, h0 = torch.zeros(steps, batch, 1, hidden, dtype=dtype), torch.ones(batch, 1, hidden)
    weight_hh, h0 = (torch.eye(hidden) / 2)[None].to(dtype), h0.to(dtype)
    expected = 0.5 ** torch.arange(1, steps + 1, dtype=torch.float64)
    expected[expected < torch.finfo(dtype).smallest_normal] = 0
    expected = expected.to(dtype)[:, None, None, None].expand_as(pre)

    out, h_n = cpu.BACKEND.forward(pre, weight_hh, h0, DENSE, RNN_RELU, 1)
    assert torch.equal(out, expected)
    assert torch.equal(h_n, expected[-1])

    grads = torch.zeros_like(pre), h0
    grad_pre, grad_h0 = cpu.BACKEND.backward(
        *grads, torch.ones_like(out), weight_hh, h0, DENSE, RNN_RELU, 1
    )
    assert torch.equal(grad_pre[:-1].flip(0), expected[:-1])
    assert torch.equal(grad_h0, expected[-1])


@pytest.mark.usefixtures("instruction_set", "two_threads")
@pytest.mark.parametrize(("batch", "hidden"), SIZES)
def test_float16_subnormals_stay_exact(batch: int, hidden: int) -> None:
    """They are normal numbers of float32."""
    steps = 1200
    subnormals = torch.arange(1, 1024, dtype=torch.int16).view(torch.float16)
    states = subnormals[torch.randint(len(subnormals), (batch, 1, hidden))]
    zeros = states.new_zeros(steps, batch, 1, hidden)
    eye, zero = torch.eye(hidden).half()[None], states.new_zeros(1, hidden, hidden)
    for mode in (RNN_TANH, RNN_RELU):  # tanh x rounds to x
        options = DENSE, mode, 1
        kept, h_n = cpu.BACKEND.forward(zeros, eye, states, *options)
        assert torch.equal(kept, states.expand_as(kept))
        assert torch.equal(h_n, states)
        passed = cpu.BACKEND.forward(states.expand_as(zeros), zero, states, *options)[0]
        assert torch.equal(passed, states.expand_as(passed))
        gradients = cpu.BACKEND.backward(zeros, states, kept, eye, states, *options)
        assert torch.equal(gradients[0], states.expand_as(kept))
        assert torch.equal(gradients[1], states)


@pytest.mark.usefixtures("instruction_set", "two_threads")
def test_linear_keeps_all_float16_numbers_and_flushes_denormals() -> None:
    linear = torch.ops.fastrnn.linear
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    x = every.view(torch.float16)[:, None]
    x = x[x.isfinite()][:, None]
    weight = torch.ones(16, 1, dtype=torch.float16)
    for rows in (x, x[:5000]):  # on two threads and on one
        assert torch.equal(linear(rows, weight, None), rows.expand(-1, 16))
        assert torch.equal(linear(weight, rows, None), rows.mT.expand(16, -1))
    for dtype, value in DENORMALS.items():
        for rows in (3, 5000):
            x = torch.full((rows, 20), value, dtype=dtype)
            assert not linear(x, torch.ones(16, 20, dtype=dtype), None).count_nonzero()


#: In a process of its own, whose threads the first call creates.
SCRIPT = """
import torch

import fastrnn

torch.set_num_threads(1)
tiny = torch.full((1 << 20,), 1e-40)
torch.set_num_threads(2)  # both multiply it


def calls():
    for sizes in ((300, 1, 256), (50, 64, 32), (3, 1, 4)):
        for cls in (fastrnn.FusedRNN, fastrnn.FusedLSTM):
            steps, batch, hidden = sizes
            layer, x = cls(hidden, hidden), torch.randn(steps, batch, hidden, requires_grad=True)
            layer(x)[0].sum().backward()
            with torch.no_grad():
                layer(x)


with fastrnn.use_backend("cpu"):
    calls()
    assert bool((tiny * 1 > 0).all()) and bool((tiny[:10] * 1 > 0).all()), "mode was left"
    assert torch.set_flush_denormal(True)
    calls()
    assert not bool((tiny[:10] * 1 > 0).any()), "the user's mode was lost"
    assert torch.set_flush_denormal(False)
    assert bool((tiny * 1 > 0).all()), "mode was left"
"""


@pytest.mark.slow
def test_the_threads_keep_their_mode() -> None:
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
