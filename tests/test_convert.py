"""Conversion changes an existing model in place, and its results by rounding only.

All references to it stay valid: the optimizer and its state, hooks, wrappers, tied weights.
"""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_sequence

import fastrnn
from fastrnn import FusedGRU, FusedLSTM, FusedLSTMCell, FusedRNN, FusedRNNCell

from .utils.nn_rnn_parity import (
    TORCH,
    assert_same,
    every_cell,
    every_layer,
    options_for,
    rnn_and_lstm,
)

X = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
KINDS = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.25},
    {"nonlinearity": "relu", "bias": False, "num_layers": 2},
]
LISTS = {"_flat_weights", "_flat_weight_refs"}


class Model(nn.Module):
    """A model with layers of all kinds at several depths, cells and a shared layer."""

    def __init__(self, **kwargs):
        super().__init__()
        self.first = nn.ModuleDict({"rnn": nn.RNN(3, 4, **kwargs), "norm": nn.LayerNorm(4)})
        self.cell, self.gated = nn.RNNCell(4, 4), nn.LSTMCell(4, 4)
        self.again = nn.ModuleList([nn.Sequential(nn.LSTM(4, 4))])
        self.shared = self.again[0][0]
        self.gru = nn.GRU(4, 4, **kwargs)
        self.double()

    def forward(self, x):
        output = self.first["norm"](self.first["rnn"](x)[0])
        output = self.gru(self.shared(self.again[0](output)[0])[0])[0]
        return torch.stack([self.gated(self.cell(step))[0] for step in output])


def pair(ours=FusedRNN, **kwargs):
    """Return two layers of torch, by default nn.RNN, with the same weights."""
    torch.manual_seed(0)
    options = {"num_layers": 2, "dtype": torch.float64, **kwargs}
    rnn = TORCH[ours](3, 4, **options_for(ours, options))
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
            assert len(fastrnn.conversion_report(model).fused) == 6
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
        "gated": "FusedLSTMCell(4, 4)",
        "again.0.0": "FusedLSTM(4, 4)",
        "shared": "FusedLSTM(4, 4), shared with again.0.0",
        "gru": "FusedGRU(4, 4, num_layers=2)",
    }
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert list(model.state_dict()) == keys
    assert type(model.shared) is FusedLSTM
    assert type(model.gru) is FusedGRU
    assert type(model.cell) is FusedRNNCell
    assert type(model.gated) is FusedLSTMCell
    model.load_state_dict(Model(num_layers=2).state_dict())


@every_layer
@pytest.mark.parametrize("kwargs", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_is_converted_and_reverted(kwargs, training, ours):
    """The same module object becomes a layer of fastrnn, and an ordinary one of torch again."""
    rnn, theirs = (layer.train(training) for layer in pair(ours, **kwargs))
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
    assert type(rnn) is ours
    assert repr(rnn) == "Fused" + repr(theirs)
    assert "_flat_weights" not in vars(rnn)
    same()
    assert fastrnn.revert(rnn) is rnn
    assert type(rnn) is TORCH[ours]
    assert repr(rnn) == repr(theirs)
    assert {k: v for k, v in vars(rnn).items() if k not in LISTS} == before
    same()
    assert vars(rnn).keys() == vars(theirs).keys() | {"note"}
    assert all(a is b for a, b in zip(rnn._flat_weights, rnn.parameters(), strict=True))
    assert all(r() is p for r, p in zip(rnn._flat_weight_refs, rnn.parameters(), strict=True))


@every_cell
def test_cells(ours):
    cell = TORCH[ours](3, 4, dtype=torch.float64)
    expected = cell(X[0])
    assert type(fastrnn.convert(cell)) is ours
    assert_same(cell(X[0]), expected)
    assert type(fastrnn.revert(cell)) is TORCH[ours]
    assert_same(cell(X[0]), expected)
    relu = nn.RNNCell(3, 4, nonlinearity="relu", dtype=torch.float64)
    expected = relu(X[0])
    assert torch.equal(fastrnn.convert(relu)(X[0]), expected)


@rnn_and_lstm
@pytest.mark.parametrize("made", ["converted and reverted", "made as a layer of fastrnn"])
@pytest.mark.parametrize("called", [False, True])
def test_a_reverted_layer_behaves_like_torchs(made, called, ours):
    rnn, theirs = pair(ours, bidirectional=True)
    if made == "made as a layer of fastrnn":
        rnn = ours(3, 4, 2, bidirectional=True, dtype=torch.float64)
        rnn.load_state_dict(theirs.state_dict())
    fastrnn.convert(rnn)
    fastrnn.revert(rnn)
    assert type(rnn) is TORCH[ours]
    if called:
        rnn(X)
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), copy.copy(rnn)):
        assert type(other) is TORCH[ours]
        assert torch.equal(other(X)[0], theirs(X)[0])
    theirs.weight_hh_l0 = nn.Parameter(torch.ones_like(theirs.weight_hh_l0))
    rnn.weight_hh_l0 = nn.Parameter(torch.ones_like(theirs.weight_hh_l0))
    assert torch.equal(rnn(X)[0], theirs(X)[0])
    assert rnn.float()(X.float())[0].dtype == torch.float32
    rnn.double().load_state_dict(theirs.state_dict(), assign=True)
    assert torch.equal(rnn(X)[0], theirs(X)[0])
    fastrnn.convert(rnn)
    assert_same(rnn(X), theirs(X))


@every_layer
def test_a_converted_layer_accepts_swapped_parameters(swap, ours):
    """torch's layers reject them, because they keep weak references to their parameters."""
    rnn, theirs = pair(ours)
    with pytest.raises(RuntimeError, match="weakref"):
        rnn.load_state_dict(theirs.state_dict())
    fastrnn.convert(rnn)
    rnn.load_state_dict({name: 2 * p for name, p in theirs.state_dict().items()})
    assert torch.equal(rnn.weight_hh_l1, 2 * theirs.weight_hh_l1)


@rnn_and_lstm
def test_a_converted_layer_is_copied_pickled_moved_and_replicated(ours):
    rnn, theirs = pair(ours, bidirectional=True)
    rnn(X)
    fastrnn.convert(rnn)
    replica = rnn._replicate_for_data_parallel()
    for name, p in rnn.named_parameters():
        setattr(replica, name, p.detach())  # as torch.nn.parallel.replicate does
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), replica):
        assert type(other) is ours
        assert_same(other(X), theirs(X))
    assert rnn.float()(X.float())[0].dtype == torch.float32
    rnn.double().weight_hh_l0 = nn.Parameter(torch.ones_like(theirs.weight_hh_l0))
    theirs.load_state_dict(rnn.state_dict())
    assert_same(rnn(X), theirs(X))


@every_layer
def test_hooks_still_fire(ours):
    rnn, _ = pair(ours)
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


@rnn_and_lstm
def test_tied_weights_stay_tied(ours):
    layers = pair(ours)
    results = []
    for each in layers:
        each.weight_hh_l1 = each.weight_hh_l0
        if each is layers[0]:
            fastrnn.convert(each)
            assert each.weight_hh_l1 is each.weight_hh_l0
        train(each, torch.optim.SGD(each.parameters(), lr=0.01), 2)
        results.append([each(X), each.weight_hh_l0])
    assert_same(*results)


@rnn_and_lstm
@pytest.mark.parametrize(
    "parametrization",
    [parametrizations.weight_norm, parametrizations.orthogonal, parametrizations.spectral_norm],
)
def test_parametrized_layers_and_removing_the_parametrization(parametrization, ours):
    """torch creates a subclass of the layer's class for such a module."""
    layers = pair(ours)
    results = []
    for each in layers:
        torch.manual_seed(0)
        parametrization(each, "weight_hh_l0")
        parametrization(each, "weight_ih_l1")
        each.eval()  # spectral_norm iterates at each access in training
        optimizer = torch.optim.Adam(each.parameters(), lr=0.05)
        losses = [train(each, optimizer, 2)]
        if each is layers[0]:
            assert type(fastrnn.convert(each)).__name__ == f"Parametrized{ours.__name__}"
            assert parametrize.type_before_parametrizations(each) is ours
        results.append([*losses, train(each, optimizer, 2), each(X)])
    assert_same(*results)
    rnn, expected = layers[0], results[0][-1]
    assert_same(copy.deepcopy(rnn)(X), expected)  # nn.RNN cannot be copied after a call
    for name in ("weight_hh_l0", "weight_ih_l1"):
        parametrize.remove_parametrizations(rnn, name)
    assert type(rnn) is ours
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
