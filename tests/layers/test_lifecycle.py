"""Module operations other than calls: our layers behave like torch's."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, skip_init
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

from fastrnn import FusedLSTM

from ..utils.nn_rnn_parity import (
    LAYERS,
    TORCH,
    assert_same,
    every_layer,
    gradients,
    options_for,
    paired_layers,
    rnn_and_lstm,
    tensors,
)

X = torch.randn(5, 2, 3, dtype=torch.float64)
KINDS = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.25},
    {"nonlinearity": "relu", "bias": False},
]
every_kind = pytest.mark.parametrize(
    ("ours", "kwargs"),
    [*itertools.product(LAYERS, KINDS), (FusedLSTM, {"num_layers": 2, "proj_size": 2})],
)


def pair(**kwargs):
    """Return one of our layers, by default a FusedRNN, and torch's, with the same weights."""
    return paired_layers(3, 4, **{"num_layers": 2, "dtype": torch.float64, **kwargs})


@every_kind
def test_same_seed_same_weights_and_state_dict_both_ways(ours, kwargs):
    layers, kwargs = [], options_for(ours, kwargs)
    for kind in (ours, TORCH[ours]):
        torch.manual_seed(3)
        layers.append(kind(3, 4, **kwargs))
    mine, theirs = layers
    assert list(mine.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, mine.parameters(), theirs.parameters()))
    theirs.load_state_dict(ours(3, 4, **kwargs).state_dict())
    mine.load_state_dict(TORCH[ours](3, 4, **kwargs).state_dict())
    assert not torch.equal(mine.weight_hh_l0, theirs.weight_hh_l0)
    torch.manual_seed(3)
    mine.reset_parameters()
    torch.manual_seed(3)
    theirs.reset_parameters()
    assert all(map(torch.equal, mine.parameters(), theirs.parameters()))


@every_kind
def test_repr_and_attributes(ours, kwargs):
    mine, theirs = paired_layers(3, 4, ours=ours, **kwargs)
    assert repr(mine) == "Fused" + repr(theirs)
    assert isinstance(mine, nn.RNNBase)
    assert not isinstance(mine, TORCH[ours])  # Dynamo breaks its graph there
    ignored = {"_flat_weights", "_flat_weight_refs", "_parameters", "num_heads", "learned_h0"}
    ignored |= {"leak", "learned_leak", "leak_on"}
    mine_too, all_of_theirs = (vars(layer).keys() - ignored for layer in (mine, theirs))
    assert mine_too == all_of_theirs
    for name in all_of_theirs:
        assert getattr(mine, name) == getattr(theirs, name), name
    assert mine._flat_weights_names == theirs._flat_weights_names
    for ours in (mine._flat_weights, [w for layer in mine.all_weights for w in layer]):
        assert all(a is b for a, b in zip(ours, mine.parameters(), strict=True))
    assert mine.flatten_parameters() is None


@every_layer
def test_copies_pickles_and_saved_files(tmp_path, ours):
    mine, _ = pair(bidirectional=True, ours=ours)
    torch.save(mine, tmp_path / "module.pt")
    torch.save(mine.state_dict(), tmp_path / "state.pt")
    loaded = ours(3, 4, 2, bidirectional=True, dtype=torch.float64)
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for other in (
        copy.deepcopy(mine),
        copy.copy(mine),
        pickle.loads(pickle.dumps(mine)),
        torch.load(tmp_path / "module.pt", weights_only=False),
        loaded,
    ):
        assert_same(other(X), mine(X))
    other = copy.deepcopy(mine)
    with torch.no_grad():
        other.weight_ih_l0.zero_()
    assert mine.weight_ih_l0.any()
    assert all(a is b for a, b in zip(other._flat_weights, other.parameters(), strict=True))


@rnn_and_lstm
def test_conversions(ours):
    mine, theirs = pair(ours=ours)
    for convert in (nn.Module.float, nn.Module.double, nn.Module.bfloat16, nn.Module.half):
        convert(mine), convert(theirs)
        dtype = theirs.weight_ih_l0.dtype
        assert mine(X.to(dtype))[0].dtype == dtype
        assert all(w.dtype == dtype for w in mine._flat_weights)


@every_layer
def test_meta_device(ours):
    mine, theirs = pair(ours=ours)
    empty = ours(3, 4, 2, device="meta", dtype=torch.float64)
    output, *states = tensors(empty(X.to("meta")))
    assert output.shape == (5, 2, 4)
    assert all(state.shape == (2, 2, 4) for state in states)
    assert output.device.type == "meta"
    empty.to_empty(device="cpu").load_state_dict(theirs.state_dict())
    skipped = skip_init(ours, 3, 4, 2, dtype=torch.float64)
    skipped.load_state_dict(theirs.state_dict())
    assigned = ours(3, 4, 2, device="meta", dtype=torch.float64)
    assigned.load_state_dict(theirs.state_dict(), assign=True)
    for layer in (empty, skipped, assigned):
        assert_same(layer(X), mine(X))


@every_layer
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpoint(use_reentrant, ours):
    mine, _ = pair(dropout=0.5, ours=ours)
    x = X.clone().requires_grad_()
    results = []

    def run(x):  # a reentrant checkpoint does not see the tensors of a nested tuple
        return tuple(tensors(mine(x)))

    for call in (run, lambda x: checkpoint(run, x, use_reentrant=use_reentrant)):
        torch.manual_seed(0)
        result = call(x)
        loss = result[0].square().sum() + sum(state.sum() for state in result[1:])
        mine.zero_grad()
        loss.backward()
        results.append((*result, *(p.grad for p in mine.parameters())))
    assert_same(*results)


@rnn_and_lstm
@pytest.mark.parametrize(
    "parametrization",
    [
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        parametrizations.spectral_norm,
        nn.utils.weight_norm,
        lambda layer, name: prune.l1_unstructured(layer, name, amount=0.5),
        lambda layer, name: setattr(layer, name, nn.Parameter(torch.ones_like(layer.weight_hh_l0))),
        lambda layer, name: setattr(layer, "weight_hh_l1", layer.weight_hh_l0),
    ],
    ids=["weight_norm", "orthogonal", "spectral_norm", "old", "pruned", "replaced", "tied"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_weights_that_are_not_plain_parameters(parametrization, ours):
    layers = pair(ours=ours)
    optimizers, results = [], []
    for layer in layers:
        torch.manual_seed(0)
        parametrization(layer, "weight_hh_l0")
        layer.eval()  # spectral_norm iterates at each access in training
        optimizers.append(torch.optim.SGD(layer.parameters(), lr=0.1))
    for _ in range(2):
        for layer, optimizer in zip(layers, optimizers, strict=True):
            output, *states = tensors(layer(X))
            optimizer.zero_grad()
            (output.square().sum() + sum(state.sum() for state in states)).backward()
            results.append((output, states, [p.grad.clone() for p in layer.parameters()]))
            optimizer.step()
        assert_same(*results[-2:])
    assert not torch.equal(results[0][0], results[2][0])


@every_layer
def test_deepcopy_of_a_parametrized_layer_after_a_call_and_a_conversion(ours):
    """torch's layers cannot be copied then, because they store the computed weights."""
    mine, _ = pair(ours=ours)
    parametrizations.weight_norm(mine, "weight_hh_l0")
    mine(X)
    mine.float().double()
    assert_same(copy.deepcopy(mine)(X), mine(X))
    parametrize.remove_parametrizations(mine, "weight_hh_l0")
    assert mine._flat_weights[1] is mine.weight_hh_l0


@every_layer
def test_functional_call(ours):
    mine, theirs = pair(ours=ours)
    other = {name: 0.5 * p.detach() for name, p in theirs.named_parameters()}
    expected = torch.func.functional_call(theirs, other, (X,))
    before = mine(X)
    assert_same(torch.func.functional_call(mine, other, (X,)), expected)
    assert_same(mine(X), before)


@every_layer
def test_replicas_of_data_parallel(ours):
    mine, _ = pair(bidirectional=True, ours=ours)
    replica = mine._replicate_for_data_parallel()
    for name, p in mine.named_parameters():
        setattr(replica, name, 2 * p)  # plain tensors, as in torch.nn.parallel.replicate
    expected = copy.deepcopy(mine)
    with torch.no_grad():
        for p in expected.parameters():
            p.mul_(2)
    assert_same(replica(X), expected(X))
    mine(X)[0].sum().backward()
    assert_same(gradients(replica(X), [mine.weight_ih_l0])[0].shape, mine.weight_ih_l0.shape)


@pytest.fixture
def process_group():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor")
@rnn_and_lstm
@pytest.mark.parametrize("shard", [False, True])
def test_data_parallel_processes(process_group, shard, ours):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mine, theirs = pair(ours=ours)
    if shard:
        # Without a mesh, fully_shard would move the layer to a GPU if there is one.
        wrapped = fully_shard(mine, mesh=init_device_mesh("cpu", (1,)))
    else:
        wrapped = nn.parallel.DistributedDataParallel(mine)
    for layer in (wrapped, theirs):
        output, *states = tensors(layer(X))
        (output.square().sum() + sum(state.sum() for state in states)).backward()
    for a, e in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert_same(a.grad.full_tensor() if shard else a.grad, e.grad)


@every_layer
def test_hooks_see_the_call(ours):
    mine, _ = pair(ours=ours)
    seen = []
    mine.register_forward_hook(lambda module, args, result: seen.append((module, args)))
    mine(X)
    assert seen == [(mine, (X,))]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("packed", [False, True])
def test_projections_run_nn_lstms_own_implementation(packed):
    options = {"num_layers": 2, "bidirectional": True, "proj_size": 2, "dropout": 0.5}
    mine, theirs = pair(ours=FusedLSTM, **options)
    x = pack_sequence([X[:3, 0], X[:, 1]], enforce_sorted=False) if packed else X
    hx = torch.randn(4, 2, 2).double(), torch.randn(4, 2, 4).double()
    results = []
    for layer in (mine, theirs):
        torch.manual_seed(0)
        result = tensors(layer(x, hx))
        results.append([*result, *gradients(result, layer.parameters())])
    assert all(map(torch.equal, *results))
