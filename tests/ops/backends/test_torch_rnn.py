"""The torch backend, with which our layers run the own implementation of torch's layers."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn
from fastrnn import FusedRNN
from fastrnn.ops import stack
from fastrnn.ops.backends import cpu, dispatch, torch_rnn
from fastrnn.ops.backends.base import Call
from fastrnn.ops.options import Options

from ...utils.nn_rnn_parity import (
    assert_same,
    every_layer,
    gradients,
    paired_layers,
    random_hx,
    rnn_and_lstm,
    tensors,
)

T, B, I, H = 5, 3, 4, 6  # noqa: E741
LENGTHS = torch.tensor([2, 5, 3])

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "relu": {"nonlinearity": "relu"},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "stacked": {"num_layers": 3, "bidirectional": True},
    "dropout": {"num_layers": 3, "dropout": 0.5},
}


@pytest.fixture(params=[False, True], ids=["as ATen", "as cuDNN"], autouse=True)
def once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Test both ways to differentiate on the CPU; cuDNN's is used without double backward."""
    monkeypatch.setattr(torch_rnn, "is_differentiable_only_once", lambda input: request.param)
    return request.param


@pytest.fixture(autouse=True)
def by_name() -> Any:
    with fastrnn.use_backend("torch"):
        yield


def x_and_hx(layer: nn.RNNBase) -> tuple[Tensor, Any]:
    shape = (B, T, I) if layer.batch_first else (T, B, I)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    return x, random_hx(layer, B, requires_grad=True)


def same(ours: Callable[[], Any], theirs: Callable[[], Any], *wanted: list[Tensor]) -> None:
    """Require the same bits with the same random seed, forward and backward."""
    results = []
    for run, leaves in zip((ours, theirs), wanted, strict=True):
        torch.manual_seed(1)
        result = run()
        results.append([*tensors(result), *gradients(result, leaves)])
    torch.testing.assert_close(*results, rtol=0, atol=0)


@every_layer
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("start", [True, False], ids=["hx", "zeros"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_matches_nn_rnn_bitwise(
    options: dict[str, Any], start: bool, training: bool, ours: Any
) -> None:
    pair = paired_layers(I, H, ours=ours, **options, dtype=torch.float64)
    mine, theirs = (layer.train(training) for layer in pair)
    x, hx = x_and_hx(mine)
    given = (x, hx) if start else (x,)
    leaves = tensors(given)
    same(
        lambda: mine(*given),
        lambda: theirs(*given),
        [*leaves, *mine.parameters()],
        [*leaves, *theirs.parameters()],
    )


@every_layer
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_packed_sequences(options: dict[str, Any], ours: Any) -> None:
    pair = paired_layers(I, H, ours=ours, **options, dtype=torch.float64)
    x, hx = x_and_hx(pair[0])

    def run(layer: nn.RNNBase) -> tuple[PackedSequence, Any]:
        packed = pack_padded_sequence(x, LENGTHS, layer.batch_first, enforce_sorted=False)
        return layer(packed, hx)

    leaves = [[x, *tensors(hx), *layer.parameters()] for layer in pair]
    same(lambda: run(pair[0]), lambda: run(pair[1]), *leaves)


@every_layer
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_second_derivatives(packed: bool, training: bool, ours: Any) -> None:
    mine, theirs = paired_layers(I, H, 2, ours=ours, bidirectional=True, dtype=torch.float64)
    x, hx = x_and_hx(mine)
    found = []
    for layer in (mine.train(training), theirs.train(training)):
        given = pack_padded_sequence(x, LENGTHS, enforce_sorted=False) if packed else x
        leaves = [x, *tensors(hx), *layer.parameters()]
        loss = sum(t.square().sum() for t in tensors(layer(given, hx)))
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        found.append([*first, *torch.autograd.grad(penalty, leaves)])
    for actual, expected in zip(*found, strict=True):
        assert_same(actual, expected)


@rnn_and_lstm
def test_only_tensors_that_require_gradients_get_them(ours: Any) -> None:
    mine, theirs = paired_layers(I, H, 2, ours=ours)
    x = torch.randn(T, B, I)
    for layer in (mine, theirs):
        layer.weight_hh_l0.requires_grad_(False)
        layer(x)[0].sum().backward()
    assert mine.weight_hh_l0.grad is None
    assert x.grad is None
    torch.testing.assert_close(mine.weight_ih_l0.grad, theirs.weight_ih_l0.grad, rtol=0, atol=0)
    assert not mine.requires_grad_(False)(x)[0].requires_grad


def test_a_graph_is_freed_unless_retained() -> None:
    rnn = FusedRNN(I, H)
    loss = rnn(torch.randn(T, B, I))[0].sum()
    loss.backward(retain_graph=True)
    kept = rnn.weight_hh_l0.grad.clone()
    loss.backward()
    torch.testing.assert_close(rnn.weight_hh_l0.grad, 2 * kept)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_weight_changed_before_backward_raises() -> None:
    rnn = FusedRNN(I, H)
    loss = rnn(torch.randn(T, B, I))[0].sum()
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_and_accumulation() -> None:
    rnn, seen = FusedRNN(I, H), []
    rnn.weight_hh_l0.register_hook(lambda grad: seen.append(grad.clone()))
    x = torch.randn(T, B, I)
    for _ in range(2):
        rnn(x)[0].sum().backward()
    torch.testing.assert_close(rnn.weight_hh_l0.grad, seen[0] + seen[1])
    assert len(seen) == 2


@every_layer
def test_autocast_and_a_checkpoint(ours: Any) -> None:
    mine, theirs = paired_layers(I, H, 2, ours=ours)
    x = torch.randn(T, B, I, requires_grad=True)

    def checkpointed() -> Any:
        return torch.utils.checkpoint.checkpoint(mine, x, use_reentrant=False)

    leaves = [[x, *layer.parameters()] for layer in (mine, theirs)]
    same(checkpointed, lambda: theirs(x), *leaves)
    with torch.autocast("cpu", torch.bfloat16):
        results = tensors(mine(x))
    assert all(result.dtype == torch.bfloat16 for result in results)
    results[0].sum().backward()


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"num_heads": 2}, {}),
        ({}, {"lengths": LENGTHS}),
        ({}, {"resets": torch.zeros(T, B, dtype=torch.bool)}),
    ],
    ids=["heads", "lengths", "resets"],
)
def test_features_that_nn_rnn_cannot_express_raise(
    options: dict[str, Any], given: dict[str, Any]
) -> None:
    with pytest.raises(
        RuntimeError, match="'torch' backend cannot serve this call: torch's layers"
    ):
        FusedRNN(I, H, **options)(torch.randn(T, B, I), **given)


@pytest.mark.parametrize("instruction_set", ["amx", "avx512"])
@pytest.mark.parametrize("products", [True, False], ids=["bfloat16 products", "none"])
@pytest.mark.parametrize("mode", ["RNN_TANH", "LSTM", "GRU"])
@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "no kernels"])
@pytest.mark.parametrize("recording", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_cpu_shortcut_agrees_with_the_rejection_checks(
    dtype: torch.dtype,
    recording: bool,
    kernels: bool,
    mode: str,
    products: bool,
    instruction_set: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reason = None if kernels else "not built"
    info = {"instruction_set": instruction_set}
    monkeypatch.setattr(cpu, "EXTENSION", SimpleNamespace(unavailable_reason=reason, info=info))
    monkeypatch.setattr(torch_rnn, "has_bfloat16_products", lambda: products)
    options = Options(mode, True, 1, 0.0, True, False)
    found = set()
    for hidden, batch in ((H, B), (512, 1), (512, 40)):
        weights = list(nn.RNNBase(mode, I, hidden, dtype=dtype).parameters())
        for steps, prefer in itertools.product(range(1, 8), (False, True)):
            x = torch.zeros(steps, batch, I, dtype=dtype, requires_grad=recording)
            call = Call(mode, steps, batch, 1, hidden, dtype, x.device, recording)
            with fastrnn.use_backend("auto"), torch.set_grad_enabled(recording):
                quick = stack.runs_in_torch(x, None, weights, options, True, True, None, prefer)
            expected = dispatch.for_layer(call, prefer) is torch_rnn.BACKEND
            assert quick is expected, (hidden, batch, steps, prefer)
            found.add(expected)
    in_bfloat16 = products and instruction_set != "amx"
    has_rule = in_bfloat16 if dtype == torch.bfloat16 else mode != "LSTM"
    assert found == ({True} if not kernels else {True, False} if has_rule else {False})


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_cudnn_serves_the_gated_layers(mode: str) -> None:
    """There are no kernels of ours for them on a GPU."""
    call = Call(mode, 2000, 64, 1, 512, torch.bfloat16, torch.device("cuda"))
    assert torch_rnn.BACKEND.slower_reason(call) is None
