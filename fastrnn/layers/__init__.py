"""Recurrent layers. `FusedRNN` and `FusedRNNCell` are drop-ins for torch.nn's RNN and RNNCell."""

from .cells import FusedRNNCell
from .readout import ReadoutRNN
from .rnn import FusedRNN

__all__ = ["FusedRNN", "FusedRNNCell", "ReadoutRNN"]
