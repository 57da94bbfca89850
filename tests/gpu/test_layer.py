"""Whole layers on a GPU: against nn.RNN, under autocast, in CUDA graphs, compiled."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn import FusedRNN
from fastrnn.ops.backends import dispatch
from fastrnn.testing import UNIT_ROUNDOFF, Problem
from tests.utils.cells import leaves
from tests.utils.nn_rnn_parity import assert_near, paired_layers, tensors

from .device import BACKENDS, INTERPRETED, KERNELS, Kernel, precision

T, B, I = 12, 7, 10  # noqa: E741

#: Values of H for which the backends select each of their kernels in strict float32.
HIDDEN = [20, 33] if INTERPRETED else [20, 100, 300, 1300]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"nonlinearity": "relu", "bias": False},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
]


@pytest.fixture(autouse=True)
def strict(poison: None):
    """Disable tf32."""
    with precision("float32"):
        yield


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, strict: None):
    """Select one of our backends, without fallback to the reference."""
    with fastrnn.use_backend(request.param):
        yield request.param


def _layers(hidden: int, device: torch.device, **options: Any) -> tuple[nn.Module, ...]:
    """Return FusedRNN, nn.RNN, and nn.RNN in float64."""
    mine, theirs = paired_layers(I, hidden, **options)
    truth = copy.deepcopy(theirs).double()
    return mine.to(device), theirs.to(device), truth.to(device)


def _bound(expected: Tensor, hidden: int, terms: int = 0) -> float:
    """Return a bound on the absolute rounding error of a result.

    A step sums H + I products. Each takes at most one rounding per tf32 part, of which there are
    three. A weight gradient sums `terms` more products. W_hh from U(-1/sqrt(H), 1/sqrt(H)) has a
    spectral radius near 1/sqrt(3), so the errors of all steps sum to 2.4 times that of one step.
    A second layer, and the backward pass of both, each multiply the error by the same factor.
    """
    scale = max(1.0, float(expected.abs().max()))
    return 2.4**4 * (3 * (hidden + I) + 8 + terms) * UNIT_ROUNDOFF[torch.float32] * scale


def _close(mine: list[Tensor], theirs: list[Tensor], truth: list[Tensor], **bound: int) -> None:
    for ours, torch_result, expected in zip(mine, theirs, truth, strict=True):
        assert ours.shape == torch_result.shape
        assert ours.dtype == torch_result.dtype
        atol = _bound(expected, **bound)
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=atol)
        torch.testing.assert_close(ours, torch_result, rtol=0, atol=2 * atol)


def _check(layers: tuple[nn.Module, ...], run: Any, x: Tensor, h0: Tensor, hidden: int) -> None:
    """Compare outputs and all gradients, including those of the input and initial state."""
    results, gradients = [], []
    for layer in layers:
        dtype = next(layer.parameters()).dtype
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (x, h0)]
        outputs = tensors(run(layer, *inputs))
        loss = sum((t * torch.linspace(-1, 1, t.numel()).to(t).view_as(t)).sum() for t in outputs)
        gradients.append(list(torch.autograd.grad(loss, [*inputs, *layer.parameters()])))
        results.append([tensor.detach() for tensor in outputs])
    _close(*results, hidden=hidden)
    _close(*gradients, hidden=hidden, terms=T * B)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "plain")
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.usefixtures("backend")
def test_against_torch(hidden: int, options: dict[str, Any], device: torch.device) -> None:
    layers = _layers(hidden, device, **options)
    states = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    shape = (B, T, I) if options.get("batch_first") else (T, B, I)
    x, h0 = torch.randn(shape, device=device), torch.rand(states, B, hidden, device=device)
    _check(layers, lambda layer, x, h0: layer(x, h0), x, h0, hidden)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.usefixtures("backend")
def test_packed_against_torch(hidden: int, device: torch.device) -> None:
    layers = _layers(hidden, device, bidirectional=True)
    lengths = torch.randint(1, T + 1, (B,))

    def run(layer: nn.Module, x: Tensor, h0: Tensor) -> Any:
        return layer(pack_padded_sequence(x, lengths, enforce_sorted=False), h0)

    x, h0 = torch.randn(T, B, I, device=device), torch.rand(2, B, hidden, device=device)
    _check(layers, run, x, h0, hidden)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.usefixtures("backend")
def test_autocast(hidden: int, device: torch.device) -> None:
    """We compute in the autocast dtype, whereas nn.RNN would compute in float16."""
    dtype = torch.float16 if INTERPRETED else torch.bfloat16
    mine, _, truth = _layers(hidden, device)
    x = torch.randn(T, B, I, device=device)
    with torch.autocast(device.type, dtype):
        output, h_n = mine(x)
    assert output.dtype == h_n.dtype == dtype
    assert_near(output, truth(x.double())[0].detach(), eps=8)
    output.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in mine.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in mine.parameters())


@pytest.mark.parametrize("layout", ["dense", "lengths", "packed"])
def test_opcheck(layout: str, backend: str, device: torch.device) -> None:
    problem = Problem(4, 3, 2, 5, layout, dtype=torch.float32, resets=layout != "dense")
    real, complete = leaves(problem, device)
    pre, arguments = complete(*real)
    given = (pre, *arguments, False, dispatch.NAMES.index(backend))
    torch.library.opcheck(torch.ops.fastrnn.recurrence_by.default, given)


@pytest.mark.skipif(INTERPRETED, reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("layout", ["lengths", "packed"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_kernel_in_a_cuda_graph(kernel: Kernel, layout: str, device: torch.device) -> None:
    problem = Problem(9, 40, 2, 100, layout, dtype=torch.float16)
    pre, *rest = *problem.tensors(device), *problem.options
    other = torch.randn_like(pre)
    h_n = torch.randn_like(rest[1])

    def run() -> tuple[Tensor, ...]:
        results = kernel.implementation.forward(pre, *rest, **kernel.options)
        gradients = kernel.implementation.backward(other, h_n, results[0], *rest, **kernel.options)
        return *results, *gradients

    results, graph = _captured(run)
    for new in (other, pre.clone(), other):
        pre.copy_(new)
        graph.replay()
        for captured, expected in zip(results, run(), strict=True):
            assert torch.equal(captured, expected)


@pytest.mark.skipif(INTERPRETED, reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.usefixtures("backend")
def test_a_layer_in_a_cuda_graph(hidden: int, device: torch.device) -> None:
    layer = FusedRNN(I, hidden, 2, bidirectional=True).to(device)
    x = torch.randn(T, B, I, device=device)
    with torch.inference_mode():
        (output, h_n), graph = _captured(lambda: layer(x))
        x.normal_()
        graph.replay()
        expected = layer(x)
    assert torch.equal(output, expected[0])
    assert torch.equal(h_n, expected[1])


def _captured(run: Any) -> tuple[Any, torch.cuda.CUDAGraph]:
    """Capture run; return its results, which every replay overwrites, and the graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # compile and tune kernels before the capture
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return results, graph


@pytest.mark.usefixtures("backend")
def test_compiled(device: torch.device) -> None:
    layer = FusedRNN(I, 20).to(device)
    compiled = torch.compile(layer, fullgraph=True)
    for lengths in (None, torch.randint(0, T + 1, (B,), device=device)):
        x = torch.randn(T, B, I, device=device, requires_grad=True)
        results = []
        for run in (layer, compiled):
            output, h_n = run(x, lengths=lengths)
            loss = output.square().sum() + h_n.sum()
            grads = torch.autograd.grad(loss, [x, *layer.parameters()])
            results.append([output.detach(), h_n.detach(), *grads])
        for eager, other in zip(*results, strict=True):
            # Compiler fusion may change the order of a sum.
            atol = _bound(eager, hidden=20, terms=T * B)
            torch.testing.assert_close(other, eager, rtol=0, atol=atol)
