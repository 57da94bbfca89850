"""The layers: `FusedRNN` and `FusedRNNCell`, drop-ins for torch.nn.RNN and RNNCell, and a readout.

Arguments are checked here, and refused in the words of torch's own layers; `functional.rnn`
computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import _checks, functional
from .ops.packed import packed_layout

__all__ = ["FusedRNN", "FusedRNNCell", "ReadoutRNN"]

_ACTIVATIONS = {"RNN_TANH": "tanh", "RNN_RELU": "relu"}


class FusedRNN(nn.RNNBase):
    r"""A drop-in for `torch.nn.RNN`: same arguments, parameters, results and errors.

    .. math:: h_t = act(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    It is an `nn.RNNBase`, not an `nn.RNN`, so that ``torch.compile(fullgraph=True)`` accepts it.
    Its parameters have nn.RNN's names, shapes and initial values: a state_dict of either loads
    into the other, and the same seed gives the same weights. TorchScript is not supported.

    Below, T is the number of steps, B the batch size, I ``input_size``, H ``hidden_size``,
    L ``num_layers`` and D 2 if ``bidirectional``, else 1.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L; every layer reads the outputs of the one before.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        bias: whether there are b_ih and b_hh.
        batch_first: batched input and output are [B, T, ...] instead of [T, B, ...].
        dropout: probability of dropping an output of any layer but the last, in training. The
            attribute is read at every call.
        bidirectional: also run from the last step to the first.
        device, dtype: of the parameters. float64, float32, bfloat16 or float16; complex dtypes
            run through the slow reference.

    Parameters, for layer k, with the suffix ``_reverse`` for the second direction:
        weight_ih_l{k} [H, I], or [H, D·H] for k > 0; weight_hh_l{k} [H, H]; bias_ih_l{k} and
        bias_hh_l{k} [H]. All are drawn from U(-1/√H, 1/√H).

    Raises:
        ValueError, TypeError: an argument nn.RNN refuses, ``proj_size`` among them.

    Example:
        >>> rnn = FusedRNN(10, 20, num_layers=2)
        >>> output, h_n = rnn(torch.randn(5, 3, 10))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        **unknown: Any,  # nn.RNNBase words the error
    ) -> None:
        if "proj_size" in unknown:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(
            "RNN_" + nonlinearity.upper(),
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
            **unknown,
        )
        self.nonlinearity = nonlinearity

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run over a batch of sequences.

        Args:
            input: [T, B, I]; [B, T, I] with ``batch_first``; [T, I] for one sequence; or a
                PackedSequence, sorted or not. T is at least 1. Of the parameters' dtype, save
                under autocast.
            hx: [D·L, B, H], or [D·L, H] for one sequence; the initial states, or None for zeros.
                For a PackedSequence in the caller's order, as h_n.
            lengths: [B], int32 or int64, on input's device; for padded 3-D input. Row b has
                ``lengths[b]`` steps and the rest is padding: its output is 0 there, and its h_n
                is the state after its last step. Rows need no order, a length may be 0, and one
                beyond T means T. Nothing waits for the device, as packing does, and nothing
                breaks torch.compile's graph, as the batch_sizes of a PackedSequence do.

        Returns:
            output: [T, B, D·H], [B, T, D·H], [T, D·H] or a PackedSequence, as the input.
            h_n: [D·L, B, H], or [D·L, H] for one sequence: the state each row is left with.

        Raises:
            ValueError: input is neither 2-D nor 3-D, or of another dtype than the parameters;
                lengths of a wrong shape, dtype or device, or with input that is not padded;
                a PackedSequence whose batch_sizes do not describe its data.
            RuntimeError: T is 0; sizes or devices do not fit together, as in nn.RNN.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, lengths)
        dim = input.dim()
        if dim not in (2, 3):
            raise ValueError(f"RNN: Expected input to be 2D or 3D, got {dim}D tensor instead")
        if hx is not None and hx.dim() != dim:
            kind = "batched 3-D" if dim == 3 else "unbatched 2-D"
            raise RuntimeError(
                f"For {kind} input, hx should also be {dim}-D but got {hx.dim()}-D tensor"
            )
        if dim == 2:
            _checks.no_lengths(lengths, "2-D input: leave out the padding of a single sequence")
            hx = hx if hx is None else hx.unsqueeze(1)
            output, h_n = self._run(input.unsqueeze(1), hx, 1)
            return output.squeeze(1), h_n.squeeze(1)
        if self.batch_first:
            input = input.transpose(0, 1)
        if lengths is not None:
            _checks.lengths(lengths, input.size(1), input.device)
        output, h_n = self._run(input, hx, input.size(1), lengths)
        return output.transpose(0, 1) if self.batch_first else output, h_n

    def _forward_packed(
        self, input: PackedSequence, hx: Tensor | None, lengths: Tensor | None
    ) -> tuple[PackedSequence, Tensor]:
        _checks.no_lengths(lengths, "a PackedSequence, which knows its own")
        data, batch_sizes, sorted_indices, unsorted_indices = input
        if hx is not None:
            hx = self.permute_hidden(hx, sorted_indices)
        batch = None
        if sorted_indices is not None:
            batch = sorted_indices.size(0)
        elif hx is not None and torch.compiler.is_compiling():
            batch = hx.size(1)
        lengths, offsets = packed_layout(batch_sizes, data.size(0), batch, data.device)
        output, h_n = self._run(data, hx, lengths.shape[0], lengths, offsets)
        packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return packed, self.permute_hidden(h_n, unsorted_indices)

    def _run(
        self,
        input: Tensor,  # [T, B, I], or [N, I] with offsets
        hx: Tensor | None,  # [D·L, B, H]
        batch: int,
        lengths: Tensor | None = None,  # [B]
        offsets: Tensor | None = None,  # [T]
    ) -> tuple[Tensor, Tensor]:
        # Read at every call: parametrizations, pruning, functional_call and sharding replace them.
        weights = [getattr(self, name) for name in self._flat_weights_names]
        packed = offsets is not None
        if (
            input.dtype != weights[0].dtype
            or input.size(-1) != self.input_size
            or (packed and input.dim() != 2)
        ):
            self.check_input(input, offsets)  # raises, save for a dtype that autocast will cast
        if hx is not None:
            directions = 2 if self.bidirectional else 1
            self.check_hidden_size(hx, (self.num_layers * directions, batch, self.hidden_size))
        _checks.attributes(input, weights[0], hx)
        if not packed:
            _checks.steps(input.size(0))
        return functional.rnn(
            input,
            hx,
            weights,
            num_layers=self.num_layers,
            bias=self.bias,
            dropout=self.dropout,
            training=self.training,
            bidirectional=self.bidirectional,
            activation=_ACTIVATIONS[self.mode],
            lengths=lengths,
            offsets=offsets,
        )

    def flatten_parameters(self) -> None:
        """Do nothing: the kernels read the parameters wherever they lie in memory."""

    @property
    def _flat_weights(self) -> list[Any]:
        """The parameters in order. nn.RNNBase keeps a list, which a replaced parameter outdates."""
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, value: list[Any]) -> None:
        """Ignored: what nn.RNNBase would keep is always read anew."""


class FusedRNNCell(nn.RNNCellBase):
    r"""A drop-in for `torch.nn.RNNCell`: one step of a `FusedRNN` layer.

    .. math:: h' = act(W_{ih} x + b_{ih} + W_{hh} h + b_{hh})

    Stepping it over a sequence computes what a FusedRNN with the same weights does. With
    I ``input_size``, H ``hidden_size`` and B the batch size:

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are b_ih and b_hh.
        nonlinearity: ``"tanh"`` or ``"relu"``; the attribute is read at every call.
        device, dtype: of the parameters.

    Parameters:
        weight_ih [H, I], weight_hh [H, H], bias_ih [H], bias_hh [H], drawn from U(-1/√H, 1/√H).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step.

        Args:
            input: [B, I] or [I], of the parameters' dtype, save under autocast.
            hx: [B, H] or [H], as input; None for zeros.

        Returns:
            The new state, [B, H] or [H].

        Raises:
            ValueError: input or hx is neither 1-D nor 2-D.
            RuntimeError: sizes, dtypes or devices do not fit together; no such nonlinearity.
        """
        dim = input.dim()
        if dim not in (1, 2):
            raise ValueError(f"RNNCell: Expected input to be 1D or 2D, got {dim}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"RNNCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        if dim == 1:
            input, hx = input.unsqueeze(0), hx if hx is None else hx.unsqueeze(0)
        if input.size(1) != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {input.size(1)} expected {self.input_size}"
            )
        if hx is not None:
            _checks.cell_hidden(hx, input.size(0), self.hidden_size)
            hx = hx.unsqueeze(0)
        weights = [self.weight_ih, self.weight_hh]
        if self.bias:
            weights += [self.bias_ih, self.bias_hh]
        _checks.attributes(input, weights[0], hx)
        output, _ = functional.rnn(
            input.unsqueeze(0), hx, weights, bias=bool(self.bias), activation=self.nonlinearity
        )
        return output[0] if dim == 2 else output[0, 0]


class ReadoutRNN(nn.Module):
    r"""A recurrent network with a linear readout: `FusedRNN`, then `nn.Linear`.

    .. math::
        h_t = act(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}), \qquad y_t = W_{hy} h_t + b_y

    W_hy is ``readout.weight`` [C, D·H] and b_y ``readout.bias`` [C], with C ``output_size``.

    Args:
        output_size: C.
        steps: ``"all"`` for y at every step, ``"last"`` for one y a row, from its last step.
            With ``bidirectional``, the last step means h_n: the forward direction after the
            row's last step beside the reverse direction after its first, so each has read all.
        input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout,
            bidirectional, device, dtype: as for `FusedRNN`; ``bias`` is the recurrence's.

    Raises:
        ValueError: steps is neither, or an argument `FusedRNN` refuses.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        steps: str = "all",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if steps not in ("all", "last"):
            raise ValueError(f"steps must be 'all' or 'last', got {steps!r}")
        super().__init__()
        self.steps = steps
        self.rnn = FusedRNN(
            input_size,
            hidden_size,
            num_layers,
            nonlinearity,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
        )
        features = hidden_size * (2 if bidirectional else 1)
        self.readout = nn.Linear(features, output_size, device=device, dtype=dtype)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the network; the arguments and errors are `FusedRNN`'s.

        Returns:
            y: as FusedRNN's output with C in place of D·H, a PackedSequence for a PackedSequence;
                where ``lengths`` ends a row, h is 0 and y is b_y. With ``steps="last"`` [B, C],
                or [C] for one sequence, in the caller's order.
            h_n: [D·L, B, H], or [D·L, H] for one sequence.
        """
        output, h_n = self.rnn(input, hx, lengths=lengths)
        if self.steps == "last":
            directions = 2 if self.rnn.bidirectional else 1
            # [D, B, H] -> [B, D·H], or [D, H] -> [D·H]
            return self.readout(h_n[-directions:].transpose(0, -2).flatten(-2)), h_n
        if isinstance(output, PackedSequence):
            # Not _replace: compiled, it returns an empty tuple.
            return PackedSequence(self.readout(output.data), *output[1:]), h_n
        return self.readout(output), h_n

    def extra_repr(self) -> str:
        return f"steps={self.steps!r}"
