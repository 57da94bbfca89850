"""The cells: the equations of one step, which the reference and every kernel compute."""

from __future__ import annotations

from .base import Cell
from .elman import Relu, Tanh
from .gru import Gru
from .leaky import LeakyPreRelu, LeakyPreTanh, LeakyRelu, LeakyTanh
from .lstm import Lstm

#: All cells. A cell's position is its number in the operators' schemas, as in csrc/params.h. It is
#: not a string because torch's stable ABI never frees a string argument.
CELLS: tuple[type[Cell], ...] = (
    Tanh,
    Relu,
    Lstm,
    Gru,
    LeakyTanh,
    LeakyRelu,
    LeakyPreTanh,
    LeakyPreRelu,
)

#: The number of each cell by its mode, nn.RNNBase's name.
CODES = {cell.mode: code for code, cell in enumerate(CELLS)}

RNN_TANH, RNN_RELU, LSTM, GRU = range(4)

#: nn.RNN's modes by the name of the activation.
RNN_MODES = {"tanh": "RNN_TANH", "relu": "RNN_RELU"}
