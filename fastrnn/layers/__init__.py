"""Recurrent layers: drop-ins for torch.nn's RNN, LSTM, GRU and their cells, and a readout."""

from .cells import FusedGRUCell, FusedLSTMCell, FusedRNNCell
from .gru import FusedGRU
from .lstm import FusedLSTM
from .readout import ReadoutRNN
from .rnn import FusedRNN

__all__ = [
    "FusedGRU",
    "FusedGRUCell",
    "FusedLSTM",
    "FusedLSTMCell",
    "FusedRNN",
    "FusedRNNCell",
    "ReadoutRNN",
]
