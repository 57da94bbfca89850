"""The CUDA backend, with the reference in place of its kernels, so that no GPU is needed."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastrnn
from fastrnn._explain import GPUS
from fastrnn.ops import reference as specification
from fastrnn.ops.arguments import COUNT, Arguments, Outputs, State
from fastrnn.ops.backends import cpu, cuda, dispatch, triton
from fastrnn.ops.backends.base import Call
from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.ops.cells.base import Step
from fastrnn.testing import Problem
from tests.utils.checks import CHECKS, RECURRENCE_CHECKS, check_forward
from tools.gpu_validation.results import verified_kernels

ROOT = Path(__file__).parents[4]
CSRC = ROOT / "csrc"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Replace the kernels by the reference, and record tf32 and strategy of each call."""
    made = []

    def fill(results, computed, arguments):
        """Write all states, but only the rows of packed data that belong to a step."""
        lengths, offsets = arguments.lengths, arguments.offsets
        for result, tensor in zip(results, computed, strict=True):
            assert (result is None) == (tensor is None)
            if result is None:
                continue
            assert result.is_contiguous()
            if offsets is None or result.shape[0] == arguments.h0.shape[0]:
                result.copy_(tensor)
                continue
            counts = (torch.arange(len(offsets))[:, None] < lengths).sum(1)
            for first, count in zip(offsets, counts, strict=True):
                result[first : first + count] = tensor[first : first + count]

    def forward(pre, *given):
        arguments, given = Arguments(*given[:COUNT]), given[COUNT:]
        *results, tf32, strategy = given
        made.append((tf32, strategy))
        fill(results, specification.forward(pre, arguments), arguments)

    def backward(*given):
        grad_out, grad_h_n, grad_c_n, out, gates, inner, *given = given
        arguments, given = Arguments(*given[:COUNT]), given[COUNT:]
        *results, tf32, strategy = given
        made.append((tf32, strategy))
        grads, saved = Outputs(grad_out, grad_h_n, grad_c_n), Step(State(out), gates, inner)
        fill(results, specification.backward(grads, saved, arguments), arguments)

    operators = SimpleNamespace(cuda_forward=forward, cuda_backward=backward)
    monkeypatch.setattr(torch.ops, "fastrnn", operators)
    return made


@pytest.mark.parametrize("layout", ["dense", "lengths", "packed"])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("check", CHECKS)
def test_outputs_are_allocated_and_filled(calls, check, resets, layout):
    problem = Problem(5, 3, 2, 4, layout, dtype=torch.float32, resets=resets)
    check(cuda.BACKEND, problem, strategy="grid")
    assert [strategy for _, strategy in calls] == [cuda.STRATEGIES.index("grid")]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "LEAKY", "LEAKY_PRE"])
@pytest.mark.parametrize("layout", ["dense", "packed"])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("check", RECURRENCE_CHECKS)
def test_outputs_of_other_cells(calls, check, resets, layout, kind):
    problem = Problem(5, 3, 2, 4, layout, dtype=torch.float32, resets=resets, kind=kind)
    check(cuda.BACKEND, problem, strategy="step")
    assert [strategy for _, strategy in calls] == [cuda.STRATEGIES.index("step")]


def test_nn_rnn_cannot_start_from_reset_h(calls):
    pre, arguments = Problem(5, 3, 2, 4).inputs()
    with pytest.raises(ValueError, match="add W_hh reset_h to pre"):
        cuda.BACKEND.recurrence(pre, arguments._replace(reset_h=arguments.h0), save=False)


def test_packed_rows_beyond_all_sequences_are_zero(calls):
    problem = Problem(5, 3, 1, 4, "packed")
    pre, weight_hh, h0, ragged = problem.tensors()
    more = torch.cat((pre, pre.new_full((2, 1, 4), 3.0)))
    for results in (
        cuda.BACKEND.forward(more, weight_hh, h0, ragged, *problem.options),
        cuda.BACKEND.backward(more, h0, more, weight_hh, h0, ragged, *problem.options),
    ):
        assert results[0][-2:].eq(0).all()


@pytest.mark.parametrize("contiguous", [True, False])
def test_forward_out_can_overwrite_pre(calls, contiguous):
    problem = Problem(5, 3, 1, 4, resets=True)
    pre, *rest = *problem.tensors(), *problem.options
    expected = reference.forward(pre, *rest)
    out = pre
    if not contiguous:
        out, pre = torch.empty_like(pre), pre.transpose(0, 1).contiguous().transpose(0, 1)
    h_n = cuda.BACKEND.forward_out(out, pre, *rest)
    torch.testing.assert_close((out, h_n), expected)


@pytest.mark.parametrize(
    ("dtype", "precision", "tf32"),
    [
        (torch.float32, "tf32", True),
        (torch.float32, "ieee", False),
        (torch.float64, "tf32", False),
        (torch.bfloat16, "tf32", False),
    ],
)
def test_tf32_follows_the_setting_of_cudnn(calls, monkeypatch, dtype, precision, tf32):
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", precision)
    check_forward(cuda.BACKEND, Problem(2, 3, 1, 4, dtype=dtype))
    assert calls == [(tf32, -1)]


def test_strategy_numbers_match_cpp():
    declared = re.search(r"enum class Strategy \{ (.*) \};", (CSRC / "cuda" / "plan.h").read_text())
    assert tuple(declared[1].split(", ")) == (*cuda.STRATEGIES, "rows")  # not of the operators
    with pytest.raises(ValueError, match="'fastest'"):
        check_forward(cuda.BACKEND, Problem(2, 3, 1, 4), strategy="fastest")


def test_schemas_take_no_strings():
    """torch's stable ABI leaks a string argument; the library cannot be loaded without a GPU."""
    source = (CSRC / "cuda" / "bindings.cpp").read_text()
    kinds = set()
    for name in ("cuda_forward", "cuda_backward"):
        (definition,) = re.findall(rf'm\.def\(\s*("{name}\([^;]*)\);', source)
        schema = torch._C.parse_schema("".join(re.findall(r'"(.*)"', definition)))
        kinds |= {str(argument.type) for argument in schema.arguments}
    assert kinds == {"Tensor", "Optional[Tensor]", "int", "bool"}


CALL = Call("RNN_TANH", 10, 2, 1, 4, torch.float32, torch.device("cuda"))
H200, A100 = GPUS["H200"], GPUS["A100"]


def test_unsupported_devices_and_dtypes():
    on_cpu = CALL._replace(device=torch.device("cpu"))
    assert "not 'cpu' ones" in cuda.BACKEND.unsupported_reason(on_cpu)
    assert "complex64" in cuda.BACKEND.unsupported_reason(CALL._replace(dtype=torch.complex64))
    assert cuda.BACKEND.unsupported_reason(CALL) is None


def test_unverified_without_a_record(monkeypatch):
    assert cuda.BACKEND.unverified_reason(CALL._replace(gpu=H200)) is None
    reason = cuda.BACKEND.unverified_reason(CALL._replace(gpu=A100))
    assert "not been verified on an sm_80 GPU" in reason
    monkeypatch.setattr(cuda, "VERIFIED", {(8, 0)})
    assert cuda.BACKEND.unverified_reason(CALL._replace(gpu=A100)) is None
    reason = cuda.BACKEND.unverified_reason(CALL._replace(gpu=H200))
    assert "not been verified on an sm_90 GPU" in reason


def test_other_cells_are_unverified():
    lstm = CALL._replace(mode="LSTM", gpu=H200)
    assert "kernels for LSTM have not been verified" in cuda.BACKEND.unverified_reason(lstm)
    assert cuda.BACKEND.unsupported_reason(lstm) is None


def test_verified_uses_the_capability_of_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert cuda.BACKEND.unverified_reason(CALL) is None


def test_selecting_it_by_name_rejects_cpu_tensors(monkeypatch):
    monkeypatch.setattr(cuda.BACKEND, "unavailable_reason", lambda: None)
    state = torch.zeros(2, 1, 4)
    with fastrnn.use_backend("cuda"), pytest.raises(RuntimeError, match="cannot serve this call"):
        fastrnn.functional.recurrence(torch.zeros(3, 2, 1, 4), torch.zeros(1, 4, 4), state)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_unavailable_without_a_gpu():
    assert cuda.BACKEND.unavailable_reason() == "no CUDA GPU here"
    with pytest.raises(RuntimeError, match="backend is not available here: no CUDA GPU here"):
        fastrnn.set_backend("cuda")


def test_unavailable_without_the_plan(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    broken = SimpleNamespace(unavailable_reason="not built: no compiler")
    monkeypatch.setattr(cpu, "EXTENSION", broken)
    assert cuda.BACKEND.unavailable_reason() == "not built: no compiler"


@pytest.mark.parametrize(
    ("batch", "hidden", "steps", "verified", "served_by"),
    [
        (4, 64, 1000, ("triton", "cuda"), "triton"),  # rows
        (4, 64, 100, ("triton", "cuda"), "cuda"),
        (4, 1000, 1000, ("triton", "cuda"), "cuda"),  # grid
        (4, 64, 1000, ("cuda",), "cuda"),
        (4, 64, 100, ("triton",), "triton"),
        (4, 1000, 1000, ("triton",), "triton"),
        (4, 1000, 1000, (), "reference"),
    ],
)
@pytest.mark.filterwarnings("ignore:fastrnn runs the slow PyTorch reference")
def test_auto_selects_the_fastest_verified_backend(
    monkeypatch, batch, hidden, steps, verified, served_by
):
    if "triton" not in verified:
        monkeypatch.setattr(triton, "VERIFIED", set())
    if "cuda" not in verified:
        monkeypatch.setattr(cuda, "VERIFIED", set())
    call = CALL._replace(steps=steps, batch=batch, hidden=hidden, gpu=H200)
    assert dispatch.for_recurrence(call) is dispatch.BACKENDS[served_by]


def test_verified_devices_have_a_record():
    """The comment above `VERIFIED` names the record."""
    source = Path(cuda.__file__).read_text()
    (name,) = re.findall(r"record: (benchmarks/results/\S+\.json)\.\nVERIFIED = ", source)
    record = json.loads((ROOT / name).read_text())
    assert {tuple(record["environment"]["capability"])} == cuda.VERIFIED
    for strategy in cuda.STRATEGIES:
        assert f"cuda.{strategy}" in verified_kernels(record)
