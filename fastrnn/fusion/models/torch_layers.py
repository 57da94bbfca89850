"""Replace the fused layers of a network by torch's own: for comparisons and for ONNX."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from fastrnn import FusedGRU, FusedLSTM, FusedRNN
from fastrnn.ops import arguments

from .recurrent import State, h_of, last

FUSED_LAYERS = (FusedRNN, FusedLSTM, FusedGRU)
_TORCH = {"RNN_TANH": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}  # by the mode of our layer


class Padded(nn.Module):
    """torch's own layer with our `lengths`, implemented in the fastest way available to users.

    It also processes the padding, and selects each row's last h from the output. It supports what
    the fusion models use: one layer, one direction, batch first, one head and a given initial
    state or zeros.

    Raises:
        ValueError: the layer is of another kind.
    """

    def __init__(self, source: FusedRNN | FusedLSTM | FusedGRU) -> None:
        super().__init__()
        beyond = source.bidirectional or source.learned_h0 or not source.batch_first
        if source.num_layers > 1 or source.num_heads > 1 or beyond or source.mode not in _TORCH:
            raise ValueError(
                "Padded supports only one layer, one direction, one head, tanh, batch_first=True "
                "and no learned initial state"
            )
        self.layer = _TORCH[source.mode](
            source.input_size, source.hidden_size, bias=bool(source.bias), batch_first=True
        )
        self.layer.to(next(source.parameters()))
        self.layer.load_state_dict(source.state_dict())
        self.bidirectional = False  # ReadoutRNN asks its layer

    def _state(self, hx: Tensor) -> arguments.State:
        return arguments.State(hx)  # ReadoutRNN asks its layer

    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        lengths: Tensor | None = None,
        resets: None = None,  # the fusion models have none
    ) -> tuple[Tensor, Tensor]:
        """Run like our layer, except that the output is not zero after a row's length.

        Of the final state it returns h alone: no output of an LSTM has c at a row's last step.
        """
        output, state = self.layer(input, hx)
        return output, h_of(state) if lengths is None else last(output, lengths)[None]


def with_torch_layers(model: nn.Module) -> nn.Module:
    """Return a copy of the model with every fused layer replaced by torch's, of equal weights.

    Raises:
        ValueError: Padded does not support one of the layers.
    """
    result = copy.deepcopy(model)
    for parent in list(result.modules()):
        for name, child in parent.named_children():
            if isinstance(child, FUSED_LAYERS):
                setattr(parent, name, Padded(child))
    return result
