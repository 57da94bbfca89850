"""Half-precision products of gradients on processors where torch's are slow scalar loops."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import fastrnn
from fastrnn import FusedRNN
from fastrnn.ops import grad_matmul
from fastrnn.ops.linear import multiply
from fastrnn.testing import UNIT_ROUNDOFF, relative_tolerance

HALF = torch.bfloat16, torch.float16
NAMES = {torch.bfloat16: "c10::BFloat16", torch.float16: "c10::Half"}
PRODUCTS = {f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear")}

pytestmark = pytest.mark.parametrize("dtype", HALF, ids=str)


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a processor without half-precision products, and widen a few rows at a time."""
    monkeypatch.setattr(grad_matmul, "_SLOW_DTYPES", frozenset(HALF))
    monkeypatch.setattr(grad_matmul, "CHUNK_SIZE", 7)


def draw(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


def assert_rounded_once(actual: Tensor, exact: Tensor, terms: int, scale: Tensor) -> None:
    """Bound the error of `terms` products summed in float32; their magnitudes sum to `scale`."""
    assert actual.dtype in HALF
    assert actual.shape == exact.shape
    stored, summed = UNIT_ROUNDOFF[actual.dtype], UNIT_ROUNDOFF[torch.float32]
    bound = stored * exact.abs() + (1 + stored) * terms * summed * scale
    assert (actual.double() - exact).abs().le(bound).all()


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("rows", [(1,), (7,), (5, 9, 3)], ids=str)
def test_outer_sums_over_chunks_and_pairs(groups: int, rows: tuple[int, ...], dtype: torch.dtype):
    a, b = draw(*rows, groups, 4, dtype=dtype), draw(*rows, groups, 5, dtype=dtype)
    first = draw(2, groups, 4, dtype=dtype), draw(2, groups, 5, dtype=dtype)
    flat = [
        torch.cat([one.reshape(-1, *one.shape[-2:]), other]).double()
        for one, other in zip((a, b), first, strict=True)
    ]
    exact = torch.einsum("ngh,ngk->ghk", *flat)
    scale = torch.einsum("ngh,ngk->ghk", *(x.abs() for x in flat))
    assert_rounded_once(grad_matmul.outer(first, (a, b)), exact, flat[0].shape[0], scale)


def test_multiply_rounds_once(dtype: torch.dtype):
    rows, weight = draw(20, 6, dtype=dtype), draw(6, 5, dtype=dtype)
    exact = rows.double() @ weight.double()
    scale = rows.double().abs() @ weight.double().abs()
    assert_rounded_once(multiply(rows, weight), exact, 6, scale)
    batched = torch.vmap(multiply, (0, None))(rows.reshape(4, 5, 6), weight)
    assert_rounded_once(batched.reshape(20, 5), exact, 6, scale)


def mistakes_compiling_for_exporting() -> bool:
    """Whether is_exporting() is true under torch.compile, as in torch 2.10."""

    @torch.compile(backend="eager", fullgraph=True)
    def add(x: Tensor) -> Tensor:
        return x + 1 if torch.compiler.is_exporting() else x

    return add(torch.zeros(())).item() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "lengths"), [(1, None), (2, torch.tensor([4, 9, 1]))], ids=["dense", "lengths"]
)
def test_a_compiled_step_calls_no_torch_product_in_half_precision(
    heads: int, lengths: Tensor | None, tmp_path: Path, dtype: torch.dtype
):
    if fastrnn.ops.backends.cpu.EXTENSION.unavailable_reason is not None:
        pytest.skip("without the extension, the reference calls torch's products")
    torch._dynamo.reset()
    if mistakes_compiling_for_exporting():
        pytest.skip("this torch treats every compiled graph as an export for any machine")
    rnn = FusedRNN(6, 8, 2, bidirectional=True, num_heads=heads, dtype=dtype)
    run = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    x = draw(9, 3, 6, dtype=dtype).requires_grad_()
    with torch.profiler.profile(record_shapes=True) as profile:
        run(x, lengths=lengths)[0].sum().backward()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    found = {
        (event["name"], of)
        for event in events
        if event.get("name") in PRODUCTS
        for of in event["args"]["Input type"]
    }
    assert {of for _, of in found} >= {"float"}  # weights' gradients: the trace records dtypes
    assert not any(of == NAMES[dtype] for _, of in found), found


def test_compiled_code_is_one_graph_with_the_same_accuracy(dtype: torch.dtype):
    torch._dynamo.reset()
    rnn = FusedRNN(6, 8, dtype=dtype)
    exact = FusedRNN(6, 8, dtype=torch.float64)
    exact.load_state_dict({name: x.double() for name, x in rnn.state_dict().items()})
    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(rnn, fullgraph=True, dynamic=True, backend=counter)
    for steps in (2, 9, 30):
        x = draw(steps, 3, 6, dtype=dtype)
        for module, given in ((run, x), (exact, x.double())):
            module.zero_grad()
            module(given)[0].sum().backward()
        for actual, expected in zip(rnn.parameters(), exact.parameters(), strict=True):
            error = (actual.grad.double() - expected.grad).norm() / expected.grad.norm()
            assert error <= relative_tolerance(dtype, 6 + 8, steps, steps * 3 * 8)[1]
    assert counter.frame_count == 1
