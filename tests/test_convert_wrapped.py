"""Conversion of layers within compiled models, graphs of torch.fx and distributed wrappers."""

from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import fastrnn
from fastrnn import FusedLSTM, FusedRNNCell

from .test_convert import Model, X, pair, train
from .utils.nn_rnn_parity import TORCH, assert_same, every_layer, rnn_and_lstm


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_is_recompiled_as_one_graph(in_place):
    """nn.RNN breaks the graph. After conversion, the same compiled model is one graph."""
    counter = CompileCounterWithBackend("eager")
    model = Model()
    expected = model(X)
    if in_place:
        model.compile(backend=counter, fullgraph=True)
    compiled = model if in_place else torch.compile(model, backend=counter, fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN"):
        compiled(X)
    assert fastrnn.convert(compiled) is compiled
    assert type(model.cell) is FusedRNNCell
    assert_same(compiled(X), expected)
    assert counter.frame_count == 1
    assert "fastrnn.recurrence" in str(counter.graphs[0].code)


@every_layer
@pytest.mark.parametrize("from_torch", [True, False])
def test_a_graph_of_torch_fx(from_torch, ours):
    kind = TORCH[ours] if from_torch else ours
    graph = torch.fx.symbolic_trace(nn.Sequential(kind(3, 4, dtype=torch.float64)))
    expected = graph(X)
    for change, new in ((fastrnn.convert, ours), (fastrnn.revert, TORCH[ours])):
        assert type(change(graph).get_submodule("0")) is new
        assert_same(graph(X), expected)


@pytest.fixture
def shard():
    """Return fully_shard for a process group of size 1."""
    if not torch.distributed.is_available():
        pytest.skip("torch without distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    # Without a mesh, fully_shard would move the layer to a GPU if there is one.
    yield partial(fully_shard, mesh=init_device_mesh("cpu", (1,)))
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor")
@rnn_and_lstm
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("way_back", [False, True])
def test_within_a_distributed_wrapper(shard, sharded, way_back, ours):
    rnn, theirs = pair(ours)
    wrap = shard if sharded else nn.parallel.DistributedDataParallel
    results = []
    for model in (wrap(nn.Sequential(rnn)), theirs):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        losses = [train(model, optimizer, 2)]
        if model is not theirs:
            fastrnn.convert(model)
            assert type(rnn) is ours
            if way_back:
                fastrnn.revert(model)
                assert type(rnn) is TORCH[ours]
        results.append([*losses, train(model, optimizer, 2)])
    assert_same(*results)


@pytest.mark.parametrize(
    ("kind", "change"), [(nn.RNN, fastrnn.convert), (FusedLSTM, fastrnn.revert)]
)
def test_layers_wrapped_by_fully_shard_are_skipped(shard, kind, change):
    wrapped = shard(kind(3, 4))
    why = f"it is wrapped, as FSDP{kind.__name__}: call {change.__name__} before wrapping"
    report = fastrnn.conversion_report(wrapped)
    assert (report.left if kind is nn.RNN else report.irreversible) == {"": why}
    assert isinstance(change(wrapped), kind)
