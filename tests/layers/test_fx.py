"""torch.fx traces a model with our layers like a model with torch's layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fastrnn
from fastrnn import FusedGRU, FusedLSTM, FusedLSTMCell, ReadoutRNN

from ..utils.nn_rnn_parity import (
    CELLS,
    LAYERS,
    TORCH,
    assert_same,
    every_layer,
    random_hx,
)

X = torch.randn(5, 2, 4)


class Wrapper(nn.Module):
    """A model that calls a layer with ``call``."""

    def __init__(self, layer: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.before, self.inner, self.call = nn.Linear(4, 4), nn.ModuleDict({"rnn": layer}), call

    def forward(self, x: Tensor, given: Any = None) -> Any:
        return self.call(self.inner["rnn"], self.before(x), given)


def nodes(graph: fx.Graph) -> list[tuple[str, Any]]:
    return [(node.op, node.target) for node in graph.nodes]


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        *((kind(4, 6, 2, bidirectional=True), X) for kind in LAYERS),
        *((kind(4, 6), X[0]) for kind in CELLS),
    ],
)
def test_graph_equals_that_of_torchs_layer(layer, x):
    torch_layer = TORCH[type(layer)](*(4, 6, 2) if type(layer) in LAYERS else (4, 6))
    for call in (lambda rnn, x, _: rnn(x), lambda rnn, x, h: rnn(x, h)):
        mine, theirs = (fx.symbolic_trace(Wrapper(m, call)) for m in (layer, torch_layer))
        assert nodes(mine.graph) == nodes(theirs.graph)
        assert ("call_module", "inner.rnn") in nodes(mine.graph)
    traced = fx.symbolic_trace(Wrapper(layer, lambda rnn, x, _: rnn(x)))
    assert traced.inner.rnn is layer
    assert_same(traced(x), layer(traced.before(x)))


@pytest.mark.parametrize("kind", [*LAYERS, lambda *sizes: ReadoutRNN(*sizes, 3)])
@pytest.mark.parametrize("name", ["hx", "lengths", "resets"])
def test_keyword_arguments(kind, name):
    layer = kind(4, 6)
    given = {
        "hx": random_hx(getattr(layer, "rnn", layer), 2, dtype=torch.float32),
        "lengths": torch.tensor([5, 3]),
        "resets": torch.rand(5, 2) < 0.3,
    }[name]
    model = Wrapper(layer, lambda rnn, x, given: rnn(x, **{name: given}))
    traced = fx.symbolic_trace(model)
    assert_same(traced(X, given), model(X, given))
    assert_same(fx.symbolic_trace(traced)(X, given), model(X, given))


def test_proxy_for_hx_only():
    """The input is constant, such as a learned query; only the state is traced."""
    for layer in (*(kind(4, 6) for kind in TORCH), ReadoutRNN(4, 6, 3)):
        x = X[0] if type(layer) in CELLS else X
        h = random_hx(getattr(layer, "rnn", layer), 2, dtype=torch.float32)
        model = Wrapper(layer, lambda rnn, _, h, x=x: rnn(x, h))
        assert_same(fx.symbolic_trace(model)(x, h), model(x, h))


@pytest.mark.parametrize("kind", [FusedLSTM, FusedLSTMCell])
def test_proxies_within_a_pair_of_states(kind):
    layer = kind(4, 6)
    x = X if kind is FusedLSTM else X[0]
    h, c = random_hx(layer, 2, dtype=torch.float32)
    for given, of in ((h, lambda h: (h, c)), (c, lambda c: (h, c)), (h, lambda h: [h, h + 1])):
        model = Wrapper(layer, lambda rnn, _, given, of=of: rnn(x, of(given)))
        assert_same(fx.symbolic_trace(model)(x, given), model(x, given))


def test_a_packed_sequence():
    packed = pack_sequence([X[:, 0], X[:3, 1]])
    for layer in (*(kind(4, 6) for kind in LAYERS), ReadoutRNN(4, 6, 3)):
        output, h_n = fx.symbolic_trace(nn.Sequential(layer))(packed)
        expected, expected_h_n = layer(packed)
        assert isinstance(output, PackedSequence)
        assert_same((output.data, h_n), (expected.data, expected_h_n))


def test_a_readout_by_itself_is_traced_through():
    net = ReadoutRNN(4, 6, 3)
    traced = fx.symbolic_trace(net)
    assert ("call_module", "rnn") in nodes(traced.graph)
    assert_same(traced(X), net(X))


@pytest.mark.parametrize("layer", [kind(4, 6) for kind in TORCH])
def test_a_layer_by_itself_has_no_graph(layer):
    for module in (layer, TORCH[type(layer)](4, 6)):
        with pytest.raises(fx.proxy.TraceError, match="inputs to control flow"):
            fx.symbolic_trace(module)


def test_a_layer_outside_the_model_raises_like_torchs():
    class Outside(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return layers[0](x)

    for layer in (nn.RNN(4, 6), *(kind(4, 6) for kind in TORCH)):
        layers = [layer]
        with pytest.raises(NameError, match="module is not installed as a submodule"):
            fx.symbolic_trace(Outside())


@every_layer
@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_quantization_handles_the_layer_like_torchs(ours):
    """Linear layers are quantized, and the recurrence stays in floating point."""
    outputs = []
    for kind in (TORCH[ours], ours):
        torch.manual_seed(0)
        model = Wrapper(kind(4, 6), lambda rnn, x, _: rnn(x)[0]).eval()
        prepared = prepare_fx(model, get_default_qconfig_mapping(), (X,))
        prepared(X)
        quantized = convert_fx(prepared)
        assert "quantized" in type(quantized.before).__module__
        outputs.append(quantized(X))
    torch.testing.assert_close(*outputs)


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
@pytest.mark.parametrize("ours", [FusedLSTM, FusedGRU])
def test_dynamic_quantization_needs_a_reverted_layer(ours):
    """torch.ao finds nn.LSTM and nn.GRU by their classes."""
    model = nn.Sequential(ours(4, 6))
    kinds = {nn.LSTM, nn.GRU, ours}
    assert type(quantize_dynamic(model, kinds)[0]) is ours
    quantized = quantize_dynamic(fastrnn.revert(model), kinds)
    assert "quantized" in type(quantized[0]).__module__
    assert quantized(X)[0].shape == (5, 2, 6)
