"""ReadoutRNN: y_t = W_hy h_t + b_y, at every step or the last."""

import itertools

import pytest
import torch
from torch.nn.utils import skip_init
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fastrnn import FusedGRU, FusedLSTM, FusedRNN, ReadoutRNN

from ..utils.nn_rnn_parity import assert_same, gradients, random_hx

STEPS, BATCH, LENGTHS = 5, 3, [2, 5, 3]


def network(output_size=2, **kwargs) -> ReadoutRNN:
    torch.manual_seed(0)
    return ReadoutRNN(4, 6, output_size, dtype=torch.float64, **kwargs)


def by_hand(net: ReadoutRNN, h: torch.Tensor) -> torch.Tensor:
    return h @ net.readout.weight.T + net.readout.bias


def padded(net: ReadoutRNN) -> torch.Tensor:
    x = torch.randn(STEPS, BATCH, 4, dtype=torch.float64)
    return x.transpose(0, 1) if net.rnn.batch_first else x


KINDS = [
    {"batch_first": batch_first, "bidirectional": bidirectional, "num_layers": layers}
    for batch_first, bidirectional, layers in itertools.product(
        [False, True], [False, True], [1, 2]
    )
]
KINDS += [{**KINDS[-1], "cell": "lstm"}, {**KINDS[-1], "cell": "gru"}]


@pytest.mark.parametrize("kind", KINDS)
def test_all_steps(kind):
    net = network(**kind)
    x = padded(net)
    for args in ({}, {"lengths": torch.tensor(LENGTHS)}):
        y, h_n = net(x, **args)
        output, expected_h_n = net.rnn(x, **args)
        assert_same((y, h_n), (by_hand(net, output), expected_h_n))
    y, _ = net(x[0])
    assert_same(y, by_hand(net, net.rnn(x[0])[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_input_gives_packed_output(kind):
    net = network(**kind)
    x = pack_padded_sequence(padded(net), LENGTHS, kind["batch_first"], enforce_sorted=False)
    y, _ = net(x)
    assert isinstance(y, PackedSequence)
    assert y[1:] == x[1:]
    assert_same(y.data, by_hand(net, net.rnn(x)[0].data))


@pytest.mark.parametrize("kind", KINDS)
def test_last_step_of_every_row(kind):
    """For each unpadded row: the forward direction's last output and the reverse one's first."""
    net = network(**kind, steps="last")
    x = padded(net)
    packed = pack_padded_sequence(x, LENGTHS, kind["batch_first"], enforce_sorted=False)
    rows = x.unbind(0 if kind["batch_first"] else 1)
    expected = []
    for row, length in zip(rows, LENGTHS, strict=True):
        output, _ = net.rnn(row[:length])
        forward, reverse = output[-1, :6], output[0, 6:]
        expected.append(by_hand(net, torch.cat((forward, reverse))))
        assert_same(net(row[:length])[0], expected[-1])
    for y, _ in (net(packed), net(x, lengths=torch.tensor(LENGTHS))):
        assert_same(y, torch.stack(expected))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("steps", ["all", "last"])
def test_gradients_and_initial_state(steps, cell):
    net = network(steps=steps, num_layers=2, cell=cell)
    x = padded(net).requires_grad_()
    hx = random_hx(net.rnn, BATCH, requires_grad=True)
    output, h_n = net.rnn(x, hx)
    h = output if steps == "all" else output[-1]
    wanted = [x, *(hx if cell == "lstm" else [hx]), *net.parameters()]
    assert_same(gradients(net(x, hx), wanted), gradients((by_hand(net, h), h_n), wanted))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_single_steps(cell):
    net = network(num_layers=2, cell=cell)
    x, hx = padded(net), None
    expected, h_n = net(x)
    for t in range(STEPS):
        y, hx = net.step(x[t], hx)
        assert_same(y, expected[t])
    assert_same(hx, h_n)


def test_last_step_of_a_leaky_preactivation():
    """There h_n is the pre-activation, and the readout is of h."""
    net = network(leak=0.3, leak_on="preactivation", steps="last")
    x = padded(net)
    assert_same(net(x)[0], by_hand(net, net.rnn(x)[0][-1]))


def test_projected_states():
    net = network(cell="lstm", proj_size=3, bidirectional=True)
    assert net.readout.in_features == 6
    x = padded(net)
    assert_same(net(x)[0], by_hand(net, net.rnn(x)[0]))


@pytest.mark.parametrize(
    ("cell", "kind", "args"),
    [
        ("lstm", FusedLSTM, (2, False, True, 0.5, True, 0)),
        ("gru", FusedGRU, (2, False, True, 0.5, True)),
    ],
)
def test_positional_arguments_of_a_gated_cell(cell, kind, args):
    assert repr(ReadoutRNN(4, 6, 3, *args, cell=cell).rnn) == repr(kind(4, 6, *args))
    with pytest.raises(TypeError, match="takes cell, steps, device and dtype by keyword"):
        ReadoutRNN(4, 6, 3, *args, "last", cell=cell)


def test_arguments_reach_the_layer():
    args = (2, "relu", False, True, 0.5, True)
    options = {"num_heads": 2, "learned_h0": True, "device": "meta", "dtype": torch.float16}
    layer = FusedRNN(4, 6, *args, **options)
    net = ReadoutRNN(4, 6, 3, *args, steps="last", **options)
    assert repr(net.rnn) == repr(layer)
    assert (net.rnn.nonlinearity, net.steps) == ("relu", "last")
    shapes = {name: (p.shape, p.dtype, p.device) for name, p in layer.named_parameters()}
    assert shapes == {name: (p.shape, p.dtype, p.device) for name, p in net.rnn.named_parameters()}
    assert net.readout.weight.shape == (3, 12)
    assert {(p.dtype, p.device.type) for p in net.parameters()} == {(torch.float16, "meta")}


def test_skip_init():
    net = skip_init(ReadoutRNN, 4, 6, 3, bidirectional=True, dtype=torch.float64)
    net.load_state_dict(network(bidirectional=True, output_size=3).state_dict())
    x = padded(net)
    assert_same(net(x)[0], by_hand(net, net.rnn(x)[0]))


def test_readout_of_padding_is_the_bias():
    net = network()
    y, _ = net(padded(net), lengths=torch.tensor(LENGTHS))
    assert_same(y[3:, 2], net.readout.bias.expand(2, 2))


def test_packed_output_unpacks():
    net = network()
    x = padded(net)
    y, _ = net(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    unpacked, lengths = pad_packed_sequence(y)
    assert lengths.tolist() == LENGTHS
    assert_same(unpacked[:2, 0], net(x[:2, 0])[0])


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((0,), {}),
        (("two",), {}),
        ((1, "gelu"), {}),
        ((), {"bias": 1}),
        ((), {"num_heads": 4}),
        ((), {"proj_size": 2}),
        ((), {"layers": 2}),
        ((1,), {"num_layers": 1}),
    ],
)
def test_errors_are_those_of_the_layer(args, kwargs):
    with pytest.raises((TypeError, ValueError)) as of_the_layer:
        FusedRNN(4, 6, *args, **kwargs)
    with pytest.raises(type(of_the_layer.value)) as ours:
        ReadoutRNN(4, 6, 3, *args, **kwargs)
    assert str(ours.value) == str(of_the_layer.value)


def test_steps():
    with pytest.raises(ValueError, match="steps must be 'all' or 'last', got 'first'"):
        network(steps="first")
    with pytest.raises(ValueError, match="cell must be 'rnn', 'lstm' or 'gru', got 'LSTM'"):
        network(cell="LSTM")
    with pytest.raises(TypeError, match="takes cell, steps, device and dtype by keyword"):
        ReadoutRNN(4, 6, 2, 1, "tanh", True, False, 0.0, False, "last")
