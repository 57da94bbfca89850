"""torch.compile captures a layer in one graph for all lengths, with the results of eager mode.

torch's layers break the graph. With torch._dynamo.config.allow_rnn they are unrolled, recompiled
for each length, and lose their dropout.
"""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn import FusedGRU, FusedLSTM, FusedRNN, ReadoutRNN

from ..utils.nn_rnn_parity import (
    assert_same,
    every_cell,
    gradients,
    mostly_rnn,
    random_hx,
    rnn_and_lstm,
    tensors,
)

pytestmark = [
    pytest.mark.filterwarnings("error"),
    # Importing inductor raises this warning.
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
]
X = torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
UNSORTED = torch.tensor([2, 5, 3])
SORTED = torch.tensor([5, 3, 2])


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Discard the graphs of other tests."""
    torch._dynamo.reset()


def compiled(module, fullgraph=True, dynamic=None, backend="aot_eager"):
    """Return the compiled module and the counter of its graphs."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(module, fullgraph=fullgraph, dynamic=dynamic, backend=counter), counter


def graphs(counter: CompileCounterWithBackend) -> int:
    """Return the number of nonempty graphs; torch sometimes also traces an empty frame."""
    return sum(len(graph.graph.nodes) > 0 for graph in counter.graphs)


def assert_equal_to_eager(run, module, *args, **kwargs) -> None:
    """Compare results and gradients of a compiled module with those of eager mode."""
    actual, expected = run(*args, **kwargs), module(*args, **kwargs)
    assert_same(tensors(actual), tensors(expected))
    wanted = list(module.parameters())
    assert_same(gradients(actual, wanted), gradients(expected, wanted))


@pytest.mark.slow
@rnn_and_lstm
@pytest.mark.parametrize(
    ("bidirectional", "lengths"), [(False, None), (True, torch.tensor([3, 1, 0]))]
)
def test_one_graph_serves_every_length_in_training(bidirectional, lengths, ours):
    """One graph serves all lengths from 2. torch specializes a second one for T = 1."""
    rnn = ours(3, 4, bidirectional=bidirectional, dtype=torch.float64)
    run, counter = compiled(rnn, dynamic=True)
    for steps in (5, 7, 2, 3, 4, 6, 8, 9, 20):
        assert_equal_to_eager(run, rnn, torch.randn(steps, 3, 3).double(), lengths=lengths)
        assert graphs(counter) == 1
    assert_equal_to_eager(run, rnn, torch.randn(1, 3, 3).double(), lengths=lengths)
    assert graphs(counter) == 2


@pytest.mark.slow
@mostly_rnn
def test_automatic_dynamic_shapes_need_two_graphs_for_all_lengths_and_batches(ours):
    """The first graph is static, the second dynamic. Unrolled, nn.RNN needs one per length."""
    rnn = ours(3, 4, 2, dtype=torch.float64)
    run, counter = compiled(rnn)
    with torch.no_grad():
        for steps, batch in ((5, 2), (7, 3), (2, 2), (3, 5), (4, 4), (6, 2), (8, 9), (9, 3)):
            x = torch.randn(steps, batch, 3, dtype=torch.float64)
            assert_same(run(x), rnn(x))
        assert graphs(counter) == 2
        for shape in ((1, 2), (3, 1)):  # torch specializes sizes of 1
            x = torch.randn(*shape, 3, dtype=torch.float64)
            assert_same(run(x), rnn(x))
        assert graphs(counter) <= 4


def test_dropout_is_reproducible_and_off_in_eval_mode():
    """nn.RNN compiled with allow_rnn silently omits dropout."""
    rnn = FusedRNN(1, 500, 2, "relu", bias=False, dropout=0.25, dtype=torch.float64)
    with torch.no_grad():  # the first layer outputs 1, and the second is the identity
        rnn.weight_ih_l0.fill_(1), rnn.weight_hh_l0.zero_()
        rnn.weight_ih_l1.copy_(torch.eye(500)), rnn.weight_hh_l1.zero_()
    run, _ = compiled(rnn)
    x = torch.ones(2, 4, 1, dtype=torch.float64)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(run(x)[0].detach())
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    # 4000 draws: five standard deviations of their mean are 0.034.
    assert (outputs[0] == 0).double().mean().item() == pytest.approx(0.25, abs=0.034)
    kept = outputs[0][outputs[0] != 0]
    assert_same(kept, torch.full_like(kept, 4 / 3))
    rnn.eval()
    assert torch.equal(run(x)[0], torch.ones(2, 4, 500, dtype=torch.float64))


@pytest.mark.parametrize("ours", [FusedLSTM, FusedGRU])
def test_dropout_of_gated_layers_is_kept(ours):
    """With a dropout of 1 the second layer reads zeros."""
    rnn = ours(3, 4, 2, dropout=1.0, dtype=torch.float64)
    run, _ = compiled(rnn)
    assert torch.equal(run(X)[0], run(-X)[0])
    assert_same(run(X)[0], rnn(X)[0])
    rnn.eval()
    assert not torch.equal(run(X)[0], run(-X)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_dropout_of_projections_is_kept():
    """torch's decomposition of an LSTM omits it, so the graph breaks there."""
    rnn = FusedLSTM(3, 4, 2, dropout=1.0, proj_size=2, dtype=torch.float64)
    run, _ = compiled(rnn, fullgraph=False)
    assert torch.equal(run(X)[0], run(-X)[0])
    with pytest.raises(torch._dynamo.exc.Unsupported, match="_keep_dropout"):
        compiled(rnn)[0](X)
    assert_equal_to_eager(compiled(rnn.eval())[0], rnn, X)


@rnn_and_lstm
@pytest.mark.parametrize(
    ("lengths", "with_state"),
    [(SORTED, False), (SORTED, True), (UNSORTED, False)],
    ids=["sorted", "sorted with hx", "unsorted"],
)
def test_a_packed_sequence_is_input_and_output_of_one_graph(lengths, with_state, ours):
    rnn = ours(3, 4, 1 + with_state, bidirectional=True, dtype=torch.float64)
    run, counter = compiled(rnn)
    packed = pack_padded_sequence(X, lengths, enforce_sorted=lengths is SORTED)
    hx = random_hx(rnn, 3) if with_state else None
    assert_equal_to_eager(run, rnn, packed, hx)
    output, _ = run(packed, hx)
    assert isinstance(output, PackedSequence)
    assert all(a is b or torch.equal(a, b) for a, b in zip(output[1:], packed[1:], strict=True))
    assert graphs(counter) == 1


def test_compiled_code_checks_hand_made_packed_sequences():
    run, _ = compiled(FusedRNN(3, 4, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="descending order, and sum to its 5 rows"):
        run(PackedSequence(X[:, 0], torch.tensor([2, 2])))


class Packing(nn.Module):
    """A model that packs its input in forward, as is common with nn.RNN."""

    def __init__(self, rnn: nn.Module, enforce_sorted: bool) -> None:
        super().__init__()
        self.rnn, self.enforce_sorted = rnn, enforce_sorted

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=self.enforce_sorted)
        output, h_n = self.rnn(packed)
        return pad_packed_sequence(output)[0], h_n


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.13", reason="Dynamo 2.10 fails at pad_packed_sequence")
@pytest.mark.parametrize("lengths", [SORTED, UNSORTED], ids=["sorted", "unsorted"])
@mostly_rnn
def test_packing_within_a_model_breaks_the_graph_without_warnings(lengths, ours, caplog):
    """torch does not trace packing. `lengths=` gives the same results in one whole graph."""
    model = Packing(ours(3, 4, dtype=torch.float64), lengths is SORTED)
    run, _ = compiled(model, fullgraph=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")  # torch hides some warnings by itself
        assert_equal_to_eager(run, model, X, lengths)
    assert not seen
    assert not caplog.records
    whole, _ = compiled(model.rnn)
    assert_same(whole(X, lengths=lengths), model(X, lengths))


class Tagger(nn.Module):
    """A model that returns its loss."""

    def __init__(self, ours) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.rnn = ours(6, 8, 2, bidirectional=True, batch_first=True)
        self.readout = nn.Linear(16, 5)
        self.double()

    def forward(self, tokens: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        output, _ = self.rnn(self.embedding(tokens), lengths=lengths)
        return nn.functional.cross_entropy(self.readout(output).flatten(0, 1), labels.flatten())


@rnn_and_lstm
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_model_trains_as_in_eager_mode(backend, ours):
    model = Tagger(ours)
    run, counter = compiled(model, backend=backend)
    tokens, labels = torch.randint(11, (4, 7)), torch.randint(5, (4, 7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        assert_equal_to_eager(run, model, tokens, labels, torch.tensor([7, 0, 3, 5]))
        optimizer.zero_grad()
        losses.append(run(tokens, labels, torch.tensor([7, 0, 3, 5])))
        losses[-1].backward()
        optimizer.step()
    assert losses[1] < losses[0]
    assert graphs(counter) == 1


@rnn_and_lstm
@pytest.mark.slow
def test_inductor_without_gradients(ours):
    rnn = ours(3, 4, 2, bidirectional=True, dropout=0.5, dtype=torch.float64).eval()
    run, _ = compiled(rnn, backend="inductor")
    with torch.inference_mode():
        for args in ({}, {"lengths": UNSORTED}):
            assert_same(run(X, **args), rnn(X, **args))


@every_cell
def test_a_cell(ours):
    cell = ours(3, 4, dtype=torch.float64)
    assert_equal_to_eager(compiled(cell)[0], cell, X[0], random_hx(cell, 3))


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_readout(cell):
    net = ReadoutRNN(3, 4, 2, cell=cell, dtype=torch.float64)
    packed = pack_padded_sequence(X, UNSORTED, enforce_sorted=False)
    run, _ = compiled(net)
    assert_equal_to_eager(run, net, packed)
    assert_equal_to_eager(run, net, X, lengths=UNSORTED)


def test_compiled_code_uses_the_selected_backend():
    rnn = FusedRNN(3, 4, dtype=torch.float64)
    run, counter = compiled(rnn)
    assert_equal_to_eager(run, rnn, X)
    with fastrnn.use_backend("reference"):
        assert_equal_to_eager(run, rnn, X)
    assert_equal_to_eager(run, rnn, X)
    auto, reference = (graph.code for graph in counter.graphs)
    assert "recurrence_by" not in auto
    assert "recurrence_by" in reference


def test_module_compile_in_place():
    """nn.Module.compile() keeps the names of a state_dict, whereas torch.compile prefixes them."""
    rnn = FusedRNN(3, 4, dtype=torch.float64)
    expected, names = rnn(X), list(rnn.state_dict())
    rnn.compile(fullgraph=True, backend="aot_eager")
    assert_same(rnn(X), expected)
    assert list(rnn.state_dict()) == names


BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.slow
@rnn_and_lstm
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bidirectional", [pytest.param(False, marks=pytest.mark.exhaustive), True])
def test_every_gradient_owns_its_memory(bidirectional, backend, ours):
    rnn = ours(3, 4, bidirectional=bidirectional, dtype=torch.float64)
    run, _ = compiled(rnn, backend=backend)
    gradients = torch.autograd.grad(run(X)[0].square().sum(), list(rnn.parameters()))
    storages = [gradient.untyped_storage() for gradient in gradients]
    assert len({storage._cdata for storage in storages}) == len(storages)
    for gradient, storage in zip(gradients, storages, strict=True):
        assert storage.nbytes() == gradient.numel() * gradient.element_size()


@mostly_rnn
@pytest.mark.parametrize("backend", BACKENDS)
def test_output_can_be_modified_in_place(backend, ours):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = ours(3, 4, dtype=torch.float64)

        def forward(self, x):
            return self.rnn(x)[0].mul_(2).add_(1)

    model = Model()
    run, _ = compiled(model, backend=backend)
    assert_equal_to_eager(run, model, X)
    # The same outside of the graph.
    expected = gradients((model(X) * 3).square(), model.parameters())
    assert_same(gradients(run(X).mul_(3).square(), model.parameters()), expected)
