"""Training on a GPU: in CUDA graphs, without synchronization, and bitwise reproducible."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn import FusedRNN

from .device import BACKENDS, INTERPRETED

T, B, I, H = 12, 7, 10, 100  # noqa: E741

pytestmark = pytest.mark.skipif(INTERPRETED, reason="streams and CUDA graphs need a GPU")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, poison: None):
    """Select one of our backends, without fallback to the reference."""
    with fastrnn.use_backend(request.param):
        yield request.param


def _step(layer: nn.Module, optimizer: Any, x: Tensor, lengths: Tensor) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    output, h_n = layer(x, lengths=lengths)
    loss = output.square().sum() + h_n.sum()
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.usefixtures("backend")
def test_a_training_step_in_a_cuda_graph_matches_eager_mode(device: torch.device) -> None:
    """Capture forward, backward and Adam's step; the lengths change between replays."""
    layer = FusedRNN(I, H, 2, bidirectional=True, device=device)
    expected_layer = copy.deepcopy(layer)
    optimizers = [
        torch.optim.Adam(each.parameters(), capturable=True) for each in (layer, expected_layer)
    ]
    x = torch.randn(T, B, I, device=device)
    lengths = torch.randint(0, T + 1, (B,), device=device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            _step(layer, optimizers[0], x, lengths)
    torch.cuda.current_stream().wait_stream(stream)
    for _ in range(2):
        _step(expected_layer, optimizers[1], x, lengths)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = _step(layer, optimizers[0], x, lengths)
    for _ in range(3):
        x.normal_()
        lengths.random_(0, T + 1)
        graph.replay()
        expected = _step(expected_layer, optimizers[1], x, lengths)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(layer.parameters(), expected_layer.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("backend")
def test_a_training_step_with_lengths_does_not_synchronize(device: torch.device) -> None:
    layer = FusedRNN(I, H, 2, bidirectional=True, dropout=0.5, device=device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    x = torch.randn(T, B, I, device=device, requires_grad=True)
    lengths = torch.randint(0, T + 1, (B,), device=device)
    _step(layer, optimizer, x, lengths)  # compile kernels first
    torch.cuda.set_sync_debug_mode("error")
    try:
        _step(layer, optimizer, x, lengths)
        with torch.no_grad():
            layer(x, lengths=lengths)
        with pytest.raises(RuntimeError):
            lengths.max().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("layout", ["dense", "lengths", "packed"])
@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("backend")
def test_deterministic_algorithms_reproduce_results(layout: str, device: torch.device) -> None:
    layer = FusedRNN(I, H, 2, bidirectional=True, device=device)
    x = torch.randn(T, B, I, device=device, requires_grad=True)
    lengths = torch.randint(1, T + 1, (B,))
    results = []
    for _ in range(2):
        if layout == "packed":
            packed, h_n = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
            output = packed.data
        else:
            given = lengths.to(device) if layout == "lengths" else None
            output, h_n = layer(x, lengths=given)
        loss = output.square().sum() + h_n.sum()
        results.append([output, h_n, *torch.autograd.grad(loss, [x, *layer.parameters()])])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("backend")
def test_autocast_with_lengths_equals_a_layer_of_that_dtype(
    dtype: torch.dtype, device: torch.device
) -> None:
    layer = FusedRNN(I, H, device=device)
    x, hx = torch.randn(T, B, I, device=device), torch.randn(1, B, H, device=device)
    lengths = torch.randint(0, T + 1, (B,), device=device)
    with torch.autocast("cuda", dtype=dtype):
        actual = layer(x, hx, lengths=lengths)
    expected = copy.deepcopy(layer).to(dtype)(x.to(dtype), hx.to(dtype), lengths=lengths)
    assert all(map(torch.equal, actual, expected))
    actual[0].float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())
