"""The recurrent layers, each a drop-in for the torch.nn layer of the same name."""

from .cells import FusedRNNCell
from .readout import ReadoutRNN
from .rnn import FusedRNN

__all__ = ["FusedRNN", "FusedRNNCell", "ReadoutRNN"]
