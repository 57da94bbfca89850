"""The operators of a layer, the same from their parts, as on other devices, and their fakes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastrnn
from fastrnn.ops import composite_layer
from fastrnn.ops.cells import CELLS, CODES

from ..utils.marks import requires_extension
from ..utils.nn_rnn_parity import assert_same

pytestmark = requires_extension

T, B, I, H = 6, 3, 5, 8  # noqa: E741
EVERYTHING = 63
CELLS_OF: dict[str, Any] = {
    "RNN_TANH": fastrnn.FusedRNN,
    "LEAKY_PRE_TANH": lambda *sizes, **kwargs: fastrnn.FusedRNN(
        *sizes, leak=0.3, leak_on="preactivation", **kwargs
    ),
    "LSTM": fastrnn.FusedLSTM,
    "GRU": fastrnn.FusedGRU,
}
KINDS = [{}, {"num_layers": 2, "bidirectional": True}, {"num_heads": 2}, {"bias": False}]
RAGGED = ["dense", "lengths", "resets", "packed"]


class Call:
    """The arguments of the operators, up to the number of directions."""

    def __init__(self, mode: str, kind: dict[str, Any], ragged: str, with_hx: bool) -> None:
        layer = CELLS_OF[mode](I, H, dtype=torch.float64, **kind)
        self.has_c = CELLS[CODES[mode]].has_c
        self.layers = layer.num_layers
        self.directions = 2 if layer.bidirectional else 1
        self.weights = [w.detach() for w in layer._weights()]
        self.x = torch.randn(T, B, I, dtype=torch.float64)
        states = self.layers * self.directions
        h0 = torch.randn(states, B, H, dtype=torch.float64) if with_hx else None
        self.h0 = h0
        self.c0 = torch.randn_like(h0) if h0 is not None and self.has_c else None
        lengths = offsets = resets = None
        if ragged in ("lengths", "packed"):
            lengths = torch.tensor([6, 4, 1])
        if ragged == "packed":
            offsets = torch.tensor([0, 3, 5, 7, 9, 10])
            self.x = torch.randn(11, I, dtype=torch.float64)
        if ragged == "resets":
            resets = torch.rand(T, B) < 0.3
        self.ragged = lengths, offsets, resets
        self.mode = CODES[mode]

    def forward(self) -> tuple[Any, ...]:
        rest = self.mode, self.layers, self.directions, False
        return self.x, self.weights, self.h0, self.c0, *self.ragged, *rest, True

    def backward(self, results: list[Tensor], needs: int) -> tuple[Any, ...]:
        output, h_n, *rest = results
        c_n = rest.pop(0) if self.has_c else None
        grads = [x if x is None else torch.sin(x) for x in (output, h_n, c_n)]
        *given, _ = self.forward()
        return *grads, output, rest, *given, needs


def resized(call: Call, sizes: tuple[int, int, int, int]) -> Call:
    """Replace the tensors of a call by random ones of these sizes."""
    steps, batch, inputs, hidden = sizes
    gates = call.weights[0].shape[0] // call.weights[1].shape[-1]
    per_direction = len(call.weights) // (call.layers * call.directions)
    generator = torch.Generator().manual_seed(steps + hidden)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1

    def weight(k: int, old: Tensor) -> Tensor:
        if old.dim() == 2:
            width = inputs if k < per_direction * call.directions else call.directions * hidden
            shape = gates * hidden, hidden if k % per_direction == 1 else width
            return uniform(*shape) / hidden**0.5
        is_leak = old.shape[0] == call.weights[1].shape[-1] and gates == 1 and old.min() >= 0
        size = gates * hidden
        return uniform(size).abs() if is_leak else uniform(size) / hidden**0.5

    call.weights = [weight(k, old) for k, old in enumerate(call.weights)]
    if call.h0 is not None:
        call.h0 = uniform(call.h0.shape[0], batch, hidden)
        call.c0 = None if call.c0 is None else uniform(*call.h0.shape)
    lengths, offsets, resets = call.ragged
    rows: tuple[int, ...] = steps, batch
    if lengths is not None:
        lengths = torch.randint(0, steps + 1, (batch,), generator=generator)
    if offsets is not None:
        lengths = lengths.sort(descending=True).values
        active = (torch.arange(steps)[:, None] < lengths).sum(1)
        offsets, rows = active.cumsum(0) - active, (int(active.sum()),)
    if resets is not None:
        resets = torch.rand(*rows, generator=generator) < 0.1
    call.x, call.ragged = uniform(*rows, inputs), (lengths, offsets, resets)
    return call


@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("ragged", RAGGED)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("mode", CELLS_OF)
def test_parts_equal_the_operator(mode, kind, ragged, with_hx):
    call = Call(mode, kind, ragged, with_hx)
    operators = torch.ops.fastrnn
    results = operators.layer(*call.forward())
    assert_same(composite_layer.forward(*call.forward()), results)
    needs = EVERYTHING if with_hx else EVERYTHING & ~composite_layer.STATES
    gradients = operators.layer_backward(*call.backward(results, needs))
    assert_same(composite_layer.backward(*call.backward(results, needs)), gradients)
    for only in (1 << bit for bit in range(6) if needs & 1 << bit):
        alone = operators.layer_backward(*call.backward(results, only))
        assert_same(composite_layer.backward(*call.backward(results, only)), alone)


@pytest.mark.parametrize("ragged", ["dense", "packed"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("mode", CELLS_OF)
def test_fakes_have_the_shapes_of_the_results(mode, kind, ragged):
    call = Call(mode, kind, ragged, with_hx=True)
    results = torch.ops.fastrnn.layer(*call.forward())
    given = call.backward(results, EVERYTHING)
    gradients = torch.ops.fastrnn.layer_backward(*given)
    with FakeTensorMode() as mode_:

        def fake(x: Any) -> Any:
            return torch.utils._pytree.tree_map_only(Tensor, mode_.from_tensor, x)

        fakes = torch.ops.fastrnn.layer(*fake(call.forward()))
        fake_gradients = torch.ops.fastrnn.layer_backward(*fake(given))
    for real, made in ((results, fakes), (gradients, fake_gradients)):
        assert [(x.shape, x.dtype) for x in made] == [(x.shape, x.dtype) for x in real]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": 3}, "another number of weights"),
        ({"saved": 0}, "saved must be what the forward returned"),
        ({"h0": (1, B + 1, H)}, "h0 has the wrong shape"),
        ({"weight": (4 * H, 4 * H)}, "weight_ih has the wrong shape"),
        ({"c0": None}, "c0 goes with h0"),
        ({"offsets": [0, 3, 5, 7, 9, 11]}, "offsets name rows that the packed data does not have"),
    ],
    ids=str,
)
def test_operators_reject_what_does_not_fit(change, words):
    call = Call("LSTM", {}, "packed" if "offsets" in change else "dense", with_hx=True)
    results = torch.ops.fastrnn.layer(*call.forward())
    if "weights" in change:
        call.weights = call.weights[: change["weights"]]
    if "h0" in change:
        call.h0 = torch.zeros(change["h0"], dtype=torch.float64)
    if "c0" in change:
        call.c0 = None
    if "weight" in change:
        call.weights[1] = torch.zeros(change["weight"], dtype=torch.float64)
    if "offsets" in change:
        lengths, _, _ = call.ragged
        call.ragged = lengths, torch.tensor(change["offsets"]), None
    given = list(call.backward(results, EVERYTHING))
    if "saved" in change:
        given[4] = []
    with pytest.raises(RuntimeError, match=words):
        torch.ops.fastrnn.layer_backward(*given)


class _Launches(TorchDispatchMode):
    """Counts the operations that launch a kernel on a GPU: all except those that only view."""

    VIEWS = (
        "view",
        "unsqueeze",
        "transpose",
        "permute",
        "slice",
        "select",
        "expand",
        "t",
        "detach",
    )
    ALLOCATE = ("empty", "new_empty", "empty_like")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2]
        given = [x for x in args if isinstance(x, Tensor)]
        # Some operations, such as flatten, view where they can.
        views = isinstance(found, Tensor) and given and found.data_ptr() == given[0].data_ptr()
        is_launch = name not in self.VIEWS + self.ALLOCATE and name != "unbind" and not views
        self.count += is_launch
        return found


@pytest.mark.parametrize(
    ("mode", "bidirectional", "forward", "backward"),
    [
        ("RNN_TANH", False, 4, 7),
        ("RNN_TANH", True, 9, 15),
        ("LSTM", False, 4, 7),
        ("LSTM", True, 10, 15),
        ("GRU", False, 5, 11),
        ("GRU", True, 12, 23),
    ],
)
def test_launches(mode: str, bidirectional: bool, forward: int, backward: int) -> None:
    """The number of kernels that a call launches on a GPU, where a launch takes microseconds.

    The operator of the recurrence is one of them.
    """
    layer = CELLS_OF[mode](I, H, bidirectional=bidirectional)
    x, weights = torch.randn(T, B, I), [p.detach() for p in layer.parameters()]
    options = None, None, None, None, None, CODES[mode], 1, 1 + bidirectional, False
    with _Launches() as launches:
        composite_layer.forward(x, weights, *options, False)
    assert launches.count == forward
    results = composite_layer.forward(x, weights, *options, True)
    saved = results[3 if CELLS[CODES[mode]].has_c else 2 :]
    given = torch.ones_like(results[0]), None, None, results[0], saved, x, weights
    with _Launches() as launches:
        composite_layer.backward(*given, *options, EVERYTHING)
    assert launches.count == backward
