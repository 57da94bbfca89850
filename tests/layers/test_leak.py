"""The leak of FusedRNN, compared with continuous-time networks as users write them by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import fastrnn
from fastrnn import FusedRNN
from fastrnn.export import to_onnx

from ..utils.marks import requires_extension

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}
ON = ["state", "preactivation"]


class LeakyNetwork(nn.Module):
    """A network of firing rates, or of membrane potentials: a loop over linear layers."""

    def __init__(self, rnn: FusedRNN) -> None:
        super().__init__()
        size = rnn.hidden_size
        self.input2h, self.h2h = nn.Linear(rnn.input_size, size), nn.Linear(size, size)
        self.leak, self.act, self.on = rnn.leak, ACTIVATIONS[rnn.nonlinearity], rnn.leak_on
        names = {"input2h.weight": "weight_ih", "input2h.bias": "bias_ih"}
        names |= {"h2h.weight": "weight_hh", "h2h.bias": "bias_hh"}
        values = rnn.state_dict()
        self.to(values["weight_hh_l0"].dtype)
        self.load_state_dict({ours: values[f"{theirs}_l0"] for ours, theirs in names.items()})

    def forward(self, input: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for x in input:
            if self.on == "state":
                new = self.act(self.input2h(x) + self.h2h(state))
            else:
                new = self.input2h(x) + self.h2h(self.act(state))
            state = state * (1 - self.leak) + new * self.leak
            outputs.append(state if self.on == "state" else self.act(state))
        return torch.stack(outputs), state


def layer(**options: Any) -> FusedRNN:
    torch.manual_seed(0)
    given = {"leak": 0.2, "dtype": torch.float64}
    return FusedRNN(3, 17, **{**given, **options})


def inputs(
    steps: int = 6, batch: int = 4, size: int = 17, states: int = 1
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(steps, batch, 3, dtype=torch.float64)
    return x.requires_grad_(), torch.randn(states, batch, size, dtype=torch.float64)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("leak_on", ON)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_matches_a_network_written_by_hand(leak_on: str, nonlinearity: str, backend: str) -> None:
    rnn = layer(leak_on=leak_on, nonlinearity=nonlinearity)
    by_hand = LeakyNetwork(rnn)
    x, hx = inputs()
    with fastrnn.use_backend(backend):
        output, h_n = rnn(x, hx)
    expected, last = by_hand(x, hx[0])
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(h_n[0], last)
    grads = torch.autograd.grad(output.square().sum() + h_n.sin().sum(), [x, *rnn.parameters()])
    theirs = [by_hand.input2h.weight, by_hand.h2h.weight, by_hand.input2h.bias, by_hand.h2h.bias]
    wanted = torch.autograd.grad(expected.square().sum() + last.sin().sum(), [x, *theirs])
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("leak_on", ON)
def test_a_leak_of_1_is_an_ordinary_layer(leak_on: str) -> None:
    rnn, plain = layer(leak=1, leak_on=leak_on), layer(leak=None)
    x, _ = inputs()
    torch.testing.assert_close(rnn(x)[0], plain(x)[0])


@pytest.mark.parametrize("leak_on", ON)
def test_everything_at_once_matches_the_reference(leak_on: str) -> None:
    options = {"num_layers": 2, "bidirectional": True, "num_heads": 2, "learned_h0": True}
    torch.manual_seed(2)
    rnn = FusedRNN(
        3, 18, leak=0.3, learned_leak=True, leak_on=leak_on, dtype=torch.float64, **options
    )
    for parameter in (rnn.h0, rnn.alpha):
        nn.init.uniform_(parameter, 0.1, 0.9)
    x, _ = inputs()
    given = {"lengths": torch.tensor([6, 2, 0, 5]), "resets": torch.rand(6, 4) < 0.3}
    results = []
    for backend in ("auto", "reference"):
        with fastrnn.use_backend(backend):
            output, h_n = rnn(x, **given)
            loss = output.square().sum() + h_n.sin().sum()
            results.append([output, h_n, *torch.autograd.grad(loss, [x, *rnn.parameters()])])
    torch.testing.assert_close(*results)


@requires_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("leak_on", ON)
def test_steps_are_bitwise_equal_to_the_sequence(leak_on: str, dtype: torch.dtype) -> None:
    rnn = layer(leak_on=leak_on, learned_leak=True, num_layers=2, dtype=dtype)
    x, hx = (t.to(dtype) for t in inputs(states=2))
    resets = torch.rand(6, 4) < 0.3
    with torch.no_grad():
        expected = rnn(x, hx, resets=resets)
        outputs, state = [], hx
        for t in range(x.shape[0]):
            output, state = rnn.step(x[t], state, resets=resets[t])
            outputs.append(output)
    assert torch.equal(torch.stack(outputs), expected[0])
    assert torch.equal(state, expected[1])


@pytest.mark.parametrize("leak_on", ON)
def test_derivatives_of_every_kind(leak_on: str) -> None:
    torch.manual_seed(3)
    rnn = FusedRNN(2, 3, leak=0.3, learned_leak=True, leak_on=leak_on, dtype=torch.float64)
    names = [name for name, _ in rnn.named_parameters()]
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        values = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(rnn, values, (x,))[0]

    given = x, *rnn.parameters()
    assert torch.autograd.gradcheck(run, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, given, fast_mode=True)
    batch = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    mapped = torch.func.vmap(lambda x: rnn(x)[0])(batch)
    torch.testing.assert_close(mapped, torch.stack([rnn(x)[0] for x in batch]))


def test_compiled_and_exported() -> None:
    rnn = layer(learned_leak=True, leak_on="preactivation")
    x, hx = inputs()
    expected = rnn(x, hx)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    output, h_n = compiled(x, hx)
    torch.testing.assert_close((output, h_n), expected)
    grads = torch.autograd.grad(output.sum(), list(rnn.parameters()))
    torch.testing.assert_close(
        grads, torch.autograd.grad(expected[0].sum(), list(rnn.parameters()))
    )
    steps = torch.export.Dim("steps", min=1)
    program = torch.export.export(rnn, (x, hx), dynamic_shapes=({0: steps}, None))
    torch.testing.assert_close(program.module()(x[:3], hx), rnn(x[:3], hx))


def test_the_leak_is_learned_and_can_be_parametrized() -> None:
    rnn = layer(learned_leak=True)
    assert rnn.alpha.shape == (1, 17)
    assert bool((rnn.alpha == 0.2).all())

    class Sigmoid(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sigmoid()

        def right_inverse(self, x: Tensor) -> Tensor:
            return x.logit()

    x, hx = inputs()
    expected = rnn(x, hx)[0]
    parametrize.register_parametrization(rnn, "alpha", Sigmoid())
    torch.testing.assert_close(rnn(x, hx)[0], expected)
    rnn(x, hx)[0].sum().backward()
    assert rnn.parametrizations.alpha.original.grad is not None


def test_repr_and_state_dict() -> None:
    rnn = layer(learned_leak=True, leak_on="preactivation")
    assert repr(rnn) == ("FusedRNN(3, 17, leak=0.2, learned_leak=True, leak_on='preactivation')")
    assert "alpha" in rnn.state_dict()
    assert list(layer().state_dict()) == list(nn.RNN(3, 17).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leak": 0}, "0 < leak <= 1, got 0"),
        ({"leak": 1.5}, "0 < leak <= 1, got 1.5"),
        ({"leak": True}, "0 < leak <= 1, got True"),
        ({"leak": None, "learned_leak": True}, "learned_leak=True needs leak"),
        ({"leak_on": "output"}, "leak_on must be 'state' or 'preactivation', got 'output'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(**options)
    with pytest.raises(TypeError, match="learned_leak should be of type bool, got: int"):
        layer(learned_leak=1)


def test_what_does_not_support_a_leak_says_so() -> None:
    rnn = layer(dtype=torch.float32)
    x = torch.randn(5, 2, 3)
    with fastrnn.use_backend("torch"), pytest.raises(RuntimeError, match=r"do not support .*leaks"):
        rnn(x)
    with pytest.raises(Exception, match="ONNX's RNN has no leak"):
        to_onnx(rnn, (x,), "unused.onnx")
