"""Without a gradient, a stack in one direction computes the same bits as the general path."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastrnn
from fastrnn.ops import inference, stack

from ..utils.marks import requires_extension
from ..utils.nn_rnn_parity import assert_same

T, B, I, H = 7, 3, 2, 4  # noqa: E741
GATED: list[Any] = [fastrnn.FusedLSTM, fastrnn.FusedGRU]
LAYERS: dict[str, Any] = {
    "tanh": fastrnn.FusedRNN,
    "relu": lambda *sizes, **kwargs: fastrnn.FusedRNN(*sizes, nonlinearity="relu", **kwargs),
    "leak": lambda *sizes, **kwargs: fastrnn.FusedRNN(*sizes, leak=0.3, **kwargs),
    "pre": lambda *sizes, **kwargs: fastrnn.FusedRNN(
        *sizes, leak=0.3, leak_on="preactivation", **kwargs
    ),
    "LSTM": fastrnn.FusedLSTM,
    "GRU": fastrnn.FusedGRU,
}
RAGGED = ["dense", "lengths", "resets", "both"]

pytestmark = requires_extension


def ragged_arguments(kind: str, batch: int = B) -> dict[str, Tensor]:
    given = {}
    if kind in ("lengths", "both"):
        given["lengths"] = torch.tensor([5, 0, 7])[:batch]
    if kind in ("resets", "both"):
        given["resets"] = torch.rand(T, batch) < 0.3
    return given


def flat(result: Any) -> list[Tensor]:
    output, last = result
    return [output, *(last if isinstance(last, tuple) else (last,))]


@pytest.mark.parametrize("batch", [0, 1, B])
@pytest.mark.parametrize("ragged", RAGGED)
@pytest.mark.parametrize("kwargs", [{}, {"num_layers": 2}, {"num_heads": 2}, {"bias": False}])
@pytest.mark.parametrize("name", list(LAYERS))
def test_equals_the_general_path(name, kwargs, ragged, batch, monkeypatch):
    layer, x = LAYERS[name](I, H, **kwargs), torch.randn(T, batch, I)
    given = ragged_arguments(ragged, batch)
    calls, infer = [], inference.infer
    monkeypatch.setattr(stack, "infer", lambda *a: calls.append(a) or infer(*a))
    with torch.no_grad():
        first = flat(layer(x, **given))
        of_hx = flat(layer(x, layer(x, **given)[1], **given))
        assert len(calls) == 3
        monkeypatch.setattr(stack, "are_plain", lambda *_: False)
        assert_same(first, flat(layer(x, **given)))
        assert_same(of_hx, flat(layer(x, layer(x, **given)[1], **given)))
    assert len(calls) == 3


@pytest.mark.parametrize("ragged", RAGGED)
@pytest.mark.parametrize("cell", GATED)
def test_parts_of_the_steps_equal_all_at_a_time(cell, ragged, monkeypatch):
    layer, x, given = cell(I, H, num_layers=2), torch.randn(T, B, I), ragged_arguments(ragged)
    runs, steps = [], inference._steps
    monkeypatch.setattr(
        inference, "_steps", lambda x, *rest: runs.append(len(x)) or steps(x, *rest)
    )
    with torch.no_grad():
        expected = flat(layer(x, **given))
        assert runs == [T, T]
        of_a_step = B * H * x.element_size() * (4 if cell is fastrnn.FusedLSTM else 3)
        monkeypatch.setattr(inference, "PART_BYTES", 3 * of_a_step)
        assert_same(flat(layer(x, **given)), expected)
    assert runs[2:] == [3, 3, 1, 3, 3, 1]


@pytest.mark.parametrize("cell", GATED)
def test_inference_holds_no_preactivations_of_all_steps(cell, monkeypatch):
    """Of a long sequence, the output and a part of the pre-activations are held at a time."""
    sizes: list[int] = []
    linear = inference.linear_below_autograd

    def measured(*arguments: Any) -> Tensor:
        result = linear(*arguments)
        sizes.append(result.numel() * result.element_size())
        return result

    monkeypatch.setattr(inference, "linear_below_autograd", measured)
    layer, x = cell(1, 64), torch.randn(3000, 16, 1)
    with torch.no_grad():
        output, _ = layer(x)
    gates = 4 if cell is fastrnn.FusedLSTM else 3
    assert sum(sizes) == output.numel() * gates * 4 > 2 * inference.PART_BYTES
    assert max(sizes) <= inference.PART_BYTES


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("with_resets", [False, True])
@pytest.mark.parametrize("name", list(LAYERS))
def test_single_steps_equal_the_sequence(name, num_heads, with_resets):
    layer, x = LAYERS[name](I, H, num_layers=2, num_heads=num_heads), torch.randn(T, B, I)
    resets = torch.rand(T, B) < 0.3 if with_resets else None
    with torch.no_grad():
        output, last = layer(x, resets=resets)
        h: Any = None
        for t in range(T):
            out, h = layer.step(x[t], h, resets=None if resets is None else resets[t])
            assert torch.equal(out, output[t])
    assert_same(flat((output, h)), flat((output, last)))
