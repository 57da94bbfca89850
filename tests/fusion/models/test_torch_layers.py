"""torch's layers in place of the fused ones: every layer is replaced, or rejected."""

from __future__ import annotations

import pytest
from torch import nn

from fastrnn import FusedLSTM, FusedRNN
from fastrnn.fusion import build
from fastrnn.fusion.models.torch_layers import Padded, with_torch_layers

from ..synthetic import config


@pytest.mark.parametrize(("cell", "layer"), [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_every_recurrent_layer_is_replaced(cell, layer):
    result = with_torch_layers(build(config(fusion="init", cell=cell)))
    kinds = [type(each) for each in result.modules() if isinstance(each, nn.RNNBase)]
    assert kinds == [layer] * 3  # audio, series and the fusion, which reads the text itself


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
        Padded(layer)
