"""The public functions: arguments, errors and results."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import fastrnn
from fastrnn import functional
from fastrnn.ops.backends import torch_rnn

T, B, G, H = 5, 4, 2, 3


def arguments(**changed: object) -> dict[str, object]:
    given = {
        "pre": torch.randn(T, B, G, H),
        "weight_hh": torch.randn(G, H, H) / 3,
        "h0": torch.randn(B, G, H),
    }
    return {**given, **changed}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pre": torch.randn(T, B, H)}, "pre must be"),
        ({"pre": torch.randn(0, B, G, H)}, "at least 1"),
        ({"pre": torch.ones(T, B, G, H, dtype=torch.int64)}, "floating point"),
        ({"weight_hh": torch.randn(H, H)}, "weight_hh must be"),
        ({"weight_hh": torch.randn(G, H, H).double()}, "pre's dtype"),
        ({"h0": torch.randn(B + 1, G, H)}, "h0 must be"),
        ({"h0": torch.randn(B, G, H, device="meta")}, "pre's device"),
        ({"lengths": torch.ones(B)}, "integer"),
        ({"lengths": torch.ones(B + 1, dtype=torch.int64)}, "lengths must be"),
        ({"offsets": torch.zeros(T, dtype=torch.int64)}, "pre must be"),
        (
            {"offsets": torch.zeros(T, dtype=torch.int64), "pre": torch.randn(9, G, H)},
            "need lengths",
        ),
        ({"activation": "sigmoid"}, "activation"),
        ({"reverse_from": 3}, "reverse_from"),
    ],
)
def test_bad_arguments(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        functional.recurrence(**arguments(**changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lengths", "offsets", "message"),
    [
        ([2, 2], [0, 3], "rows that the packed data does not have"),
        ([2, 2], [-1, 1], "rows that the packed data does not have"),
        ([1, 2], [0, 2], "descending"),
    ],
)
def test_packed_rows_out_of_bounds_raise_before_memory_access(
    lengths: list[int], offsets: list[int], message: str
) -> None:
    if fastrnn.ops.backends.cpu.EXTENSION.unavailable_reason:
        pytest.skip("the extension is not built")
    with fastrnn.use_backend("cpu"), pytest.raises(RuntimeError, match=message):
        functional.recurrence(
            torch.randn(4, G, H),
            torch.randn(G, H, H),
            torch.randn(2, G, H),
            lengths=torch.tensor(lengths),
            offsets=torch.tensor(offsets),
        )


def test_strides_and_integer_types_have_no_effect() -> None:
    given = arguments()
    lengths = torch.tensor([5, 0, 2, 9])
    expected = functional.recurrence(**given, lengths=lengths)  # type: ignore[arg-type]
    strided = {
        name: tensor.mT.contiguous().mT  # type: ignore[attr-defined]
        for name, tensor in given.items()
    }
    for dtype in (torch.int32, torch.uint8):
        actual = functional.recurrence(**strided, lengths=lengths.to(dtype))
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e)


def test_inactive_rows_are_zero_and_keep_their_state() -> None:
    given = arguments()
    lengths = torch.tensor([5, 0, 2, 3])
    out, h_n = functional.recurrence(**given, lengths=lengths, reverse_from=1)  # type: ignore[arg-type]
    for b, length in enumerate(lengths.tolist()):
        assert not out[length:, b].any()
        assert torch.equal(h_n[b, 0], out[length - 1, b, 0] if length else given["h0"][b, 0])  # type: ignore[index]
        assert torch.equal(h_n[b, 1], out[0, b, 1] if length else given["h0"][b, 1])  # type: ignore[index]


@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 4])])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_steps(lengths: torch.Tensor | None, dtype: torch.dtype, steps: int) -> None:
    """Few steps may take another path, with the same results. h_n does not share memory."""
    torch_layer = nn.RNN(3, 4, num_layers=2, nonlinearity="relu", dtype=dtype)
    weights = list(torch_layer.parameters())
    x, h0 = torch.randn(steps, 2, 3, dtype=dtype), torch.randn(2, 2, 4, dtype=dtype)
    options = {"num_layers": 2, "activation": "relu", "lengths": lengths}
    # nn.RNN rounds each of the two layers to half precision three times per step.
    bounds = {"rtol": 0, "atol": 6 * steps * 2.0**-8 * 4 if dtype == torch.bfloat16 else 1e-12}
    for hx in (h0, None):
        output, h_n = functional.rnn(x, hx, weights, **options)  # type: ignore[arg-type]
        for actual, expected in zip((output, h_n), torch_layer(x, hx), strict=True):
            torch.testing.assert_close(actual, expected, **bounds)
        assert output.untyped_storage().data_ptr() != h_n.untyped_storage().data_ptr()


def torchs_loop_runs(
    steps: int,
    recording: bool = True,
    dtype: Any = None,
    layer: str = "RNN",
    batch: int = 1,
    hidden: int = torch_rnn.ONE_ROW_HIDDEN + 1,
    **given: Any,
) -> bool:
    """Whether torch's own loop runs a call of this many steps."""
    weights = list(getattr(nn, layer)(3, hidden, dtype=dtype).parameters())
    x = torch.randn(steps, batch, 3, dtype=dtype)
    name = "rnn_tanh" if layer == "RNN" else layer.lower()
    spied = mock.patch.object(torch, name, wraps=getattr(torch, name))
    with spied as loop, torch.set_grad_enabled(recording):
        getattr(functional, layer.lower())(x, None, weights, **given)
    return loop.called


def test_torchs_own_loop_runs_few_steps_of_one_row() -> None:
    for layer, few in (("RNN", (1, 3)), ("GRU", (1, 3)), ("LSTM", (0, 0))):
        for recording in (False, True):
            runs = [torchs_loop_runs(t, recording, layer=layer) for t in range(1, 5)]
            assert runs == [t <= few[recording] for t in range(1, 5)]
    assert not torchs_loop_runs(1, batch=2)
    assert not torchs_loop_runs(1, hidden=torch_rnn.ONE_ROW_HIDDEN)
    assert not torchs_loop_runs(1, lengths=torch.tensor([1]))
    assert not torchs_loop_runs(1, resets=torch.zeros(1, 1, dtype=torch.bool))
    assert not torchs_loop_runs(1, dtype=torch.bfloat16)
    with fastrnn.use_backend("reference"):
        assert not torchs_loop_runs(1)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_train_as_nn_rnn(steps: int, activation: str, bidirectional: bool) -> None:
    """The comparison includes dropout between the layers."""
    options: Any = {"num_layers": 2, "dropout": 0.5, "bidirectional": bidirectional}
    torch_layer = nn.RNN(3, 4, nonlinearity=activation, **options, dtype=torch.float64)
    weights = list(torch_layer.parameters())
    x = torch.randn(steps, 2, 3, dtype=torch.float64, requires_grad=True)
    results = []
    for call in (
        lambda: functional.rnn(x, None, weights, training=True, activation=activation, **options),
        lambda: torch_layer(x),
    ):
        torch.manual_seed(0)
        output, h_n = call()
        loss = output.square().sum() + h_n.sin().sum()
        results.append([output, h_n, *torch.autograd.grad(loss, [x, *weights])])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_layers": 2}, "expected 8 weights, .* got 4"),
        ({"offsets": torch.zeros(1)}, "need lengths"),
        ({"activation": "sigmoid"}, "'sigmoid'"),
    ],
)
def test_rnn_rejects_invalid_arguments(changed: dict[str, object], message: str) -> None:
    weights = list(nn.RNN(3, 4).parameters())
    with pytest.raises(ValueError, match=message):
        functional.rnn(torch.randn(5, 2, 3), None, weights, **changed)  # type: ignore[arg-type]


def test_complex_numbers_match_nn_rnn() -> None:
    torch_layer = nn.RNN(3, 4, dtype=torch.complex128)
    x = torch.randn(5, 2, 3, dtype=torch.complex128)
    actual, h_n = functional.rnn(x, None, list(torch_layer.parameters()))
    expected, expected_h_n = torch_layer(x)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(h_n, expected_h_n)
    gradient = torch.autograd.grad(actual.abs().sum(), torch_layer.weight_hh_l0)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(expected.abs().sum(), torch_layer.weight_hh_l0)
    )


@pytest.mark.parametrize("lengths", [None, torch.tensor([5, 0])])
@pytest.mark.parametrize("choice", ["auto", "reference"])
def test_no_grad_changes_neither_results_nor_inputs(
    lengths: torch.Tensor | None, choice: str
) -> None:
    """Without autograd, an output overwrites its layer's pre-activation."""
    torch_layer = nn.RNN(3, 4, num_layers=2, bidirectional=True)
    weights = list(torch_layer.parameters())
    before = [weight.clone() for weight in weights]
    x, h0 = torch.randn(5, 2, 3), torch.randn(4, 2, 4)
    inputs = x.clone(), h0.clone()
    options = {"num_layers": 2, "bidirectional": True, "lengths": lengths}
    with fastrnn.use_backend(choice):
        expected = functional.rnn(x, h0, weights, **options)  # type: ignore[arg-type]
        with torch.no_grad():
            actual = functional.rnn(x, h0, weights, **options)  # type: ignore[arg-type]
    for a, e in zip((*actual, x, h0, *weights), (*expected, *inputs, *before), strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    given = {name: tensor.requires_grad_() for name, tensor in arguments().items()}  # type: ignore[attr-defined]
    with torch.autocast("cpu", dtype=dtype):
        out, h_n = functional.recurrence(**given)
    assert out.dtype == h_n.dtype == dtype
    expected = functional.recurrence(**{name: t.to(dtype) for name, t in given.items()})
    assert torch.equal(out, expected[0])
    out.sum().backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in given.values())


def test_dropout_applies_between_layers_only() -> None:
    torch_layer = nn.RNN(3, 4, num_layers=2)
    weights = list(torch_layer.parameters())
    x = torch.randn(5, 2, 3)
    out, _ = functional.rnn(x, None, weights, num_layers=2, dropout=1.0, training=True)
    first_zeroed, _ = functional.rnn(torch.zeros(5, 2, 4), None, weights[4:])
    torch.testing.assert_close(out, first_zeroed)
    still, _ = functional.rnn(x, None, weights, num_layers=2, dropout=1.0, training=False)
    torch.testing.assert_close(still, torch_layer(x)[0])
