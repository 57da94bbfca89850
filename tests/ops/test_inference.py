"""Inference, by one operator for a stack of layers."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastrnn

from ..utils.marks import requires_extension
from ..utils.nn_rnn_parity import assert_same
from ..utils.operators import run_separate_operators

T, B, I, H = 7, 3, 2, 4  # noqa: E741
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
def test_equals_separate_operators(name, kwargs, ragged, batch, monkeypatch):
    layer = LAYERS[name](I, H, dtype=torch.float64, **kwargs)
    x, given = torch.randn(T, batch, I, dtype=torch.float64), ragged_arguments(ragged, batch)
    results = []
    with torch.no_grad():
        for separate in (False, True):
            if separate:
                run_separate_operators(monkeypatch)
            first = layer(x, **given)
            results.append([*flat(first), *flat(layer(x, first[1], **given))])
    assert_same(*results)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", list(LAYERS))
def test_a_strided_input_is_read_where_it_is(name, batch_first):
    """Rows that are not contiguous, and those of another layout, give the same bits."""
    layer = LAYERS[name](I, H, batch_first=batch_first)
    wide = torch.randn(B, T, 2 * I)
    for x in (wide[..., :I], wide[..., I:], wide[..., ::2], wide[:1].expand(B, T, 2 * I)[..., :I]):
        given = x if batch_first else x.transpose(0, 1)
        with torch.no_grad():
            assert_same(flat(layer(given)), flat(layer(given.contiguous())))


@pytest.mark.parametrize("steps", [1, 95, 96, 97, 300])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_chunks_of_the_projection(steps, batch, bidirectional):
    """The bits do not depend on the chunks of steps in which the input is projected."""
    layer = fastrnn.FusedGRU(3, 20, bidirectional=bidirectional)
    x = torch.randn(steps, batch, 3)
    with torch.no_grad():
        output, last = layer(x)
        for b in range(batch):
            one, of_one = layer(x[:, b : b + 1])
            assert torch.equal(output[:, b], one[:, 0])
            assert torch.equal(last[:, b], of_one[:, 0])


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_inference_holds_no_preactivations_of_all_steps(name):
    """A call allocates little more than its output."""
    layer, x = LAYERS[name](1, 64), torch.randn(3000, 16, 1)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        output, _ = layer(x)
    allocated = sum(max(0, event.cpu_memory_usage) for event in profile.events())
    assert output.nbytes <= allocated < 1.1 * output.nbytes


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
