"""Conversion changes an existing model in place, and its results by rounding only.

All references to it stay valid: the optimizer and its state, hooks, wrappers, tied weights.
"""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_sequence

import fastrnn
from fastrnn import FusedRNN, FusedRNNCell

from .utils.nn_rnn_parity import assert_same

X = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
KINDS = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.25},
    {"nonlinearity": "relu", "bias": False, "num_layers": 2},
]
LISTS = {"_flat_weights", "_flat_weight_refs"}


class Model(nn.Module):
    """A model with layers at several depths, a cell and a shared layer."""

    def __init__(self, **kwargs):
        super().__init__()
        self.first = nn.ModuleDict({"rnn": nn.RNN(3, 4, **kwargs), "norm": nn.LayerNorm(4)})
        self.cell = nn.RNNCell(4, 4)
        self.again = nn.ModuleList([nn.Sequential(nn.RNN(4, 4))])
        self.shared = self.again[0][0]
        self.double()

    def forward(self, x):
        output = self.first["norm"](self.first["rnn"](x)[0])
        output = self.shared(self.again[0](output)[0])[0]
        return torch.stack([self.cell(step) for step in output])


def pair(**kwargs):
    """Return two nn.RNN with the same weights."""
    torch.manual_seed(0)
    rnn = nn.RNN(3, 4, **{"num_layers": 2, "dtype": torch.float64, **kwargs})
    return rnn, copy.deepcopy(rnn)


@pytest.fixture
def swap():
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


def train(model, optimizer, steps):
    losses = []
    for step in range(steps):
        torch.manual_seed(step)  # for dropout
        optimizer.zero_grad()
        output = model(X)
        loss = (output[0] if isinstance(output, tuple) else output).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_continues_unchanged(dropout):
    """Adam keeps its state, because the parameters remain the same objects."""
    model = Model(num_layers=2, dropout=dropout)
    theirs = copy.deepcopy(model)
    results = []
    for each in (model, theirs):
        optimizer = torch.optim.Adam(each.parameters(), lr=0.05)
        losses = [train(each, optimizer, 3)]
        parameters = list(each.parameters())
        if each is model:
            assert fastrnn.convert(each) is model
            assert len(fastrnn.conversion_report(model).fused) == 4
        assert all(a is b for a, b in zip(each.parameters(), parameters, strict=True))
        losses.append(train(each, optimizer, 4))
        results.append((*losses, dict(each.named_parameters())))
    assert results[0][1][-1] < results[0][0][0]
    assert_same(*results)


def test_every_layer_is_found_and_a_shared_one_is_named_twice():
    model = Model(num_layers=2, bidirectional=False)
    modules, keys = list(model.modules()), list(model.state_dict())
    fastrnn.convert(model)
    assert fastrnn.conversion_report(model).fused == {
        "first.rnn": "FusedRNN(3, 4, num_layers=2)",
        "cell": "FusedRNNCell(4, 4)",
        "again.0.0": "FusedRNN(4, 4)",
        "shared": "FusedRNN(4, 4), shared with again.0.0",
    }
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert list(model.state_dict()) == keys
    assert type(model.shared) is FusedRNN
    assert type(model.cell) is FusedRNNCell
    model.load_state_dict(Model(num_layers=2).state_dict())


@pytest.mark.parametrize("kwargs", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_is_converted_and_reverted(kwargs, training):
    """The same module object becomes a FusedRNN, and an ordinary nn.RNN again."""
    rnn, theirs = (layer.train(training) for layer in pair(**kwargs))
    rnn.register_buffer("extra", torch.ones(2))
    rnn.note = "kept"
    x = pack_sequence([X[:5, 0], X[:2, 1]])

    def same():
        assert rnn.training is training
        assert rnn.note == "kept"
        for given in (X, x):
            torch.manual_seed(1)
            actual = rnn(given)
            torch.manual_seed(1)
            assert_same(actual, theirs(given))

    before = {k: v for k, v in vars(rnn).items() if k not in LISTS}
    assert fastrnn.convert(rnn) is rnn
    assert type(rnn) is FusedRNN
    assert repr(rnn) == "Fused" + repr(theirs)
    assert "_flat_weights" not in vars(rnn)
    same()
    assert fastrnn.revert(rnn) is rnn
    assert type(rnn) is nn.RNN
    assert repr(rnn) == repr(theirs)
    assert {k: v for k, v in vars(rnn).items() if k not in LISTS} == before
    same()
    assert vars(rnn).keys() == vars(theirs).keys() | {"note"}
    assert all(a is b for a, b in zip(rnn._flat_weights, rnn.parameters(), strict=True))
    assert all(r() is p for r, p in zip(rnn._flat_weight_refs, rnn.parameters(), strict=True))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_cells(nonlinearity):
    cell = nn.RNNCell(3, 4, nonlinearity=nonlinearity, dtype=torch.float64)
    expected = cell(X[0])
    assert type(fastrnn.convert(cell)) is FusedRNNCell
    assert_same(cell(X[0]), expected)
    assert type(fastrnn.revert(cell)) is nn.RNNCell
    assert torch.equal(cell(X[0]), expected)


@pytest.mark.parametrize("made", ["converted and reverted", "made as a FusedRNN"])
@pytest.mark.parametrize("called", [False, True])
def test_a_reverted_layer_behaves_like_nn_rnn(made, called):
    rnn, theirs = pair(bidirectional=True)
    if made == "made as a FusedRNN":
        rnn = FusedRNN(3, 4, 2, bidirectional=True, dtype=torch.float64)
        rnn.load_state_dict(theirs.state_dict())
    fastrnn.convert(rnn)
    fastrnn.revert(rnn)
    assert type(rnn) is nn.RNN
    if called:
        rnn(X)
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), copy.copy(rnn)):
        assert type(other) is nn.RNN
        assert torch.equal(other(X)[0], theirs(X)[0])
    theirs.weight_hh_l0 = nn.Parameter(torch.eye(4, dtype=torch.float64))
    rnn.weight_hh_l0 = nn.Parameter(torch.eye(4, dtype=torch.float64))
    assert torch.equal(rnn(X)[0], theirs(X)[0])
    assert rnn.float()(X.float())[0].dtype == torch.float32
    rnn.double().load_state_dict(theirs.state_dict(), assign=True)
    assert torch.equal(rnn(X)[0], theirs(X)[0])
    fastrnn.convert(rnn)
    assert_same(rnn(X), theirs(X))


def test_a_converted_layer_accepts_swapped_parameters(swap):
    """nn.RNN rejects them, because it keeps weak references to its parameters."""
    rnn, theirs = pair()
    with pytest.raises(RuntimeError, match="weakref"):
        rnn.load_state_dict(theirs.state_dict())
    fastrnn.convert(rnn)
    rnn.load_state_dict({name: 2 * p for name, p in theirs.state_dict().items()})
    assert torch.equal(rnn.weight_hh_l1, 2 * theirs.weight_hh_l1)


def test_a_converted_layer_is_copied_pickled_moved_and_replicated():
    rnn, theirs = pair(bidirectional=True)
    rnn(X)
    fastrnn.convert(rnn)
    replica = rnn._replicate_for_data_parallel()
    for name, p in rnn.named_parameters():
        setattr(replica, name, p.detach())  # as torch.nn.parallel.replicate does
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), replica):
        assert type(other) is FusedRNN
        assert_same(other(X), theirs(X))
    assert rnn.float()(X.float())[0].dtype == torch.float32
    rnn.double().weight_hh_l0 = nn.Parameter(torch.eye(4, dtype=torch.float64))
    theirs.load_state_dict(rnn.state_dict())
    assert_same(rnn(X), theirs(X))


def test_hooks_still_fire():
    rnn, _ = pair()
    model = nn.Sequential(rnn)
    seen = []
    rnn.register_forward_pre_hook(lambda *_: seen.append("before"))
    rnn.register_forward_hook(lambda *_: seen.append("after"))
    rnn.register_full_backward_hook(lambda *_: seen.append("backward"))
    rnn.weight_hh_l0.register_hook(lambda _: seen.append("gradient"))
    rnn.register_state_dict_post_hook(lambda *_: seen.append("saved"))
    rnn.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    for change in (fastrnn.convert, fastrnn.revert):
        change(model)
        model(X.clone().requires_grad_())[0].sum().backward()
        model.load_state_dict(model.state_dict())
        assert sorted(seen) == ["after", "backward", "before", "gradient", "loaded", "saved"]
        seen.clear()


def test_tied_weights_stay_tied():
    layers = pair()
    results = []
    for each in layers:
        each.weight_hh_l1 = each.weight_hh_l0
        if each is layers[0]:
            fastrnn.convert(each)
            assert each.weight_hh_l1 is each.weight_hh_l0
        train(each, torch.optim.SGD(each.parameters(), lr=0.01), 2)
        results.append([each(X), each.weight_hh_l0])
    assert_same(*results)


@pytest.mark.parametrize(
    "parametrization",
    [parametrizations.weight_norm, parametrizations.orthogonal, parametrizations.spectral_norm],
)
def test_parametrized_layers_and_removing_the_parametrization(parametrization):
    """torch creates a subclass of nn.RNN for such a module."""
    layers = pair()
    results = []
    for each in layers:
        torch.manual_seed(0)
        parametrization(each, "weight_hh_l0")
        parametrization(each, "weight_ih_l1")
        each.eval()  # spectral_norm iterates at each access in training
        optimizer = torch.optim.Adam(each.parameters(), lr=0.05)
        losses = [train(each, optimizer, 2)]
        if each is layers[0]:
            assert type(fastrnn.convert(each)).__name__ == "ParametrizedFusedRNN"
            assert parametrize.type_before_parametrizations(each) is FusedRNN
        results.append([*losses, train(each, optimizer, 2), each(X)])
    assert_same(*results)
    rnn, expected = layers[0], results[0][-1]
    assert_same(copy.deepcopy(rnn)(X), expected)  # nn.RNN cannot be copied after a call
    for name in ("weight_hh_l0", "weight_ih_l1"):
        parametrize.remove_parametrizations(rnn, name)
    assert type(rnn) is FusedRNN
    assert_same(rnn(X), expected)


def test_reverting_a_parametrized_layer_does_not_compute_its_weights():
    """In training, every access updates spectral_norm."""
    rnn, _ = pair()
    parametrizations.spectral_norm(rnn, "weight_hh_l0")
    before = copy.deepcopy(rnn.state_dict())
    fastrnn.convert(rnn)
    fastrnn.revert(rnn)
    assert all(map(torch.equal, rnn.state_dict().values(), before.values()))
    assert parametrize.type_before_parametrizations(rnn) is nn.RNN
    expected = FusedRNN(3, 4, 2, dtype=torch.float64)
    rnn.eval()
    expected.load_state_dict({name: getattr(rnn, name) for name in rnn._flat_weights_names})
    assert_same(copy.deepcopy(rnn)(X), expected(X))
    assert_same(rnn(X), expected(X))
    parametrize.remove_parametrizations(rnn, "weight_hh_l0")
    assert type(rnn) is nn.RNN
    assert_same(rnn(X), expected(X))


def test_a_copy_of_a_parametrized_layer_is_not_converted_with_it():
    """torch lets copies share a class."""
    rnn, _ = pair()
    parametrizations.weight_norm(rnn, "weight_hh_l0")
    other = copy.deepcopy(rnn)
    fastrnn.convert(rnn)
    assert isinstance(other, nn.RNN)
    assert_same(rnn(X), other(X))
    parametrize.remove_parametrizations(rnn, "weight_hh_l0")
    assert_same(rnn(X), other(X))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("way_back", [False, True])
@pytest.mark.parametrize(
    ("do", "undo"),
    [
        (lambda m: prune.l1_unstructured(m, "weight_hh_l0", 0.5), prune.remove),
        (lambda m: nn.utils.weight_norm(m, "weight_hh_l0"), nn.utils.remove_weight_norm),
    ],
    ids=["pruned", "weight_norm"],
)
def test_weights_computed_by_hooks(do, undo, way_back):
    layers = pair()
    results = []
    for each in layers:
        do(each)
        optimizer = torch.optim.Adam(each.parameters(), lr=0.05)
        losses = [train(each, optimizer, 2)]
        if each is layers[0]:
            fastrnn.convert(each)
            if way_back:
                fastrnn.revert(each)
        losses.append(train(each, optimizer, 2))
        undo(each, "weight_hh_l0")
        results.append([*losses, each(X), dict(each.named_parameters())])
    assert_same(*results)


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


@pytest.mark.parametrize("kind", [nn.RNN, FusedRNN])
def test_a_graph_of_torch_fx(kind):
    graph = torch.fx.symbolic_trace(nn.Sequential(kind(3, 4, dtype=torch.float64)))
    expected = graph(X)
    for change, new in ((fastrnn.convert, FusedRNN), (fastrnn.revert, nn.RNN)):
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
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("way_back", [False, True])
def test_within_a_distributed_wrapper(shard, sharded, way_back):
    rnn, theirs = pair()
    wrap = shard if sharded else nn.parallel.DistributedDataParallel
    results = []
    for model in (wrap(nn.Sequential(rnn)), theirs):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        losses = [train(model, optimizer, 2)]
        if model is not theirs:
            fastrnn.convert(model)
            assert type(rnn) is FusedRNN
            if way_back:
                fastrnn.revert(model)
                assert type(rnn) is nn.RNN
        results.append([*losses, train(model, optimizer, 2)])
    assert_same(*results)


@pytest.mark.parametrize(
    ("kind", "change"), [(nn.RNN, fastrnn.convert), (FusedRNN, fastrnn.revert)]
)
def test_layers_wrapped_by_fully_shard_are_skipped(shard, kind, change):
    wrapped = shard(kind(3, 4))
    why = f"it is wrapped, as FSDP{kind.__name__}: call {change.__name__} before wrapping"
    report = fastrnn.conversion_report(wrapped)
    assert (report.left if kind is nn.RNN else report.irreversible) == {"": why}
    assert isinstance(change(wrapped), kind)
