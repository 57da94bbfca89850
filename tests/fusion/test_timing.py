"""The comparison with torch's layers replaces every fused layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrnn import FusedLSTM, FusedRNN
from fastrnn.fusion import TrainConfig, build, timing

from .synthetic import Rows, config


@pytest.mark.parametrize(("cell", "layer"), [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_a_comparison_times_every_recurrent_layer(cell, layer):
    model = config(fusion="init", cell=cell)
    network, batch = build(model), Rows(model).batch()
    plain = timing.with_torch_layers(network)
    kinds = [type(each) for each in plain.modules() if isinstance(each, nn.RNNBase)]
    assert kinds == [layer] * 3  # audio, series and the fusion, which reads the text itself
    before = {name: each.clone() for name, each in network.state_dict().items()}
    found = timing.compare(network, batch, model.problem_type, TrainConfig(), repeats=1)
    assert [each.what for each in found] == ["whole training step", "recurrent layers alone"]
    assert all(each.fused > 0 and each.torch > 0 for each in found)
    for name, each in network.state_dict().items():
        assert torch.equal(each, before[name])
    assert len(timing.table(found, "").rows) == 2


@pytest.mark.parametrize(
    "layer",
    [
        FusedLSTM(2, 4),
        FusedLSTM(2, 4, num_layers=2, batch_first=True),
        FusedLSTM(2, 4, bidirectional=True, batch_first=True),
        FusedLSTM(2, 4, num_heads=2, batch_first=True),
        FusedLSTM(2, 4, learned_h0=True, batch_first=True),
        FusedRNN(2, 4, nonlinearity="relu", batch_first=True),
    ],
    ids=["time first", "layers", "directions", "heads", "learned", "relu"],
)
def test_layers_that_fusion_does_not_use_are_rejected(layer):
    with pytest.raises(ValueError, match="supports only one layer"):
        timing.Padded(layer)
