"""`FusedRNN`, a drop-in for torch.nn.RNN that adds heads, resets and single steps.

This file checks the arguments and raises nn.RNN's errors. `ops.stack.run` computes the result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

from .. import _checks
from ..ops import stack
from ..ops._eager import is_eager, is_plain, is_recording
from ..ops._torch_private import is_any_autocast
from ..ops.arguments import State
from ..ops.backends.dispatch import requested
from ..ops.options import Options
from ..ops.packed import packed_layout
from ..ops.ragged import DENSE, Ragged
from ..ops.single_step import single_step
from ._expanded_weights import are_expanded, reject_beyond_nn_rnn
from ._fx import record_call
from .base import FusedRNNBase

__all__ = ["FusedRNN"]


class FusedRNN(FusedRNNBase):
    r"""A drop-in replacement for `torch.nn.RNN`: same arguments, parameters, results and errors.

    .. math:: h_t = \mathrm{act}(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    It is an `nn.RNNBase`, not an `nn.RNN`, so that ``torch.compile(fullgraph=True)`` accepts it.
    Its parameters have nn.RNN's names, shapes and initial values: each class loads the other's
    state_dict, and the same seed gives the same weights. TorchScript is not supported.

    In addition to nn.RNN, it supports rows of different ``lengths``, new sequences at any step
    (``resets``, see `forward`), single steps (`step`), several heads and a learned initial state.
    Each of n heads reads only its own H/n elements of the state, so W_hh is block-diagonal. For
    head j:

    .. math:: h^j_t = \mathrm{act}((W_{ih} x_t + b_{ih} + b_{hh})^j + W^j_{hh} h^j_{t-1})

    Below, T is the number of steps, B the batch size, I ``input_size``, H ``hidden_size``,
    L ``num_layers`` and D 2 if ``bidirectional``, else 1.

    Args:
        input_size: I, the number of features of a step.
        hidden_size: H, the number of features of the state.
        num_layers: L; each layer reads the outputs of the previous one.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        bias: whether the layers have b_ih and b_hh.
        batch_first: whether batched input and output are [B, T, ...] instead of [T, B, ...].
        dropout: probability of dropping an output of any layer except the last, in training. The
            attribute is read at every call.
        bidirectional: whether each layer also runs from the last step to the first.
        device, dtype: device and dtype of the parameters. float64, float32, bfloat16 or float16.
            nn.RNN's own implementation or the slow reference runs complex dtypes.
        num_heads: n, a divisor of H. W_hh and the recurrence's work shrink to 1/n of one head's.
        learned_h0: whether the initial state is a parameter. A sequence starts from it if no hx is
            given or if a reset begins the sequence.

    Parameters, for layer k, with the suffix ``_reverse`` for the second direction:
        weight_ih_l{k} [H, I], or [H, D·H] for k > 0; weight_hh_l{k} [H, H], or [n, H/n, H/n] for
        n > 1 heads; bias_ih_l{k} and bias_hh_l{k} [H]. All are drawn from U(-1/√H, 1/√H), except
        weight_hh, from U(-1/√(H/n), 1/√(H/n)). With ``learned_h0``, the last parameter is h0
        [D·L, H], in h_n's order and initially 0.

    Raises:
        ValueError: nn.RNN rejects an argument, or ``proj_size`` is given; num_heads is not a
            positive integer or does not divide H.
        TypeError: an argument has a type that nn.RNN rejects; learned_h0 is not a bool.

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
        *,
        num_heads: int = 1,
        learned_h0: bool = False,
        **unknown: Any,  # nn.RNNBase raises the error
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
            num_heads=num_heads,
            learned_h0=learned_h0,
            **unknown,
        )
        self.nonlinearity = nonlinearity

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        # Not keyword-only: torch.onnx.export(dynamo=False) passes all arguments by position.
        lengths: Tensor | None = None,
        resets: Tensor | PackedSequence | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run over a batch of sequences.

        Args:
            input: [T, B, I]; [B, T, I] with ``batch_first``; [T, I] for one sequence; or a
                PackedSequence, sorted or not. T is at least 1. The dtype is that of the
                parameters, except under autocast.
            hx: [D·L, B, H], or [D·L, H] for one sequence: the initial states. None: h0 with
                ``learned_h0``, else zeros. For a PackedSequence, hx and h_n are in the caller's
                order of rows.
            lengths: [B], int32 or int64, on input's device; for padded 3-D input. Row b has
                ``lengths[b]`` steps, followed by padding: there its output is 0, and its h_n is the
                state after its last step. Rows need not be sorted, a length may be 0, and lengths
                above T are clamped to T. Unlike packing, this does not synchronize with the device.
                Unlike the batch_sizes of a PackedSequence, it does not break torch.compile's graph.
            resets: bool, [T, B]; [B, T] with ``batch_first``; [T] for one sequence; on input's
                device. Where true, row b begins a new sequence at step t, so that one row can hold
                many sequences. In every layer and direction, no state passes between steps t - 1
                and t. At step 0, the forward direction ignores hx. With r = resets,
                h_t = act(W_ih x_t + b_ih + W_hh ((1 - r_t) h_{t-1} + r_t h0) + b_hh): a new
                sequence starts from zeros, or from h0 with ``learned_h0``. h_n is the state after
                a row's last sequence, and in the reverse direction after its first. Resets of
                padding have no effect. In reinforcement learning, where the observation after the
                end of an episode is the first of the next, resets[t] = done[t - 1].
                For a PackedSequence, resets are a PackedSequence of bools made with the same
                lengths: ``pack_padded_sequence(resets, lengths, ...)`` with resets [T, B].

        Returns:
            output: [T, B, D·H], [B, T, D·H], [T, D·H] or a PackedSequence, like the input.
            h_n: [D·L, B, H], or [D·L, H] for one sequence: the final state of each row.

        Raises:
            ValueError: input is neither 2-D nor 3-D, or its dtype is not that of the parameters;
                lengths have a wrong shape, dtype or device, or the input is not padded; resets
                have a wrong shape, dtype or device, or are not packed as input is. On a GPU and in
                compiled code, an asynchronous assertion compares the orders of rows, without
                synchronizing.
            RuntimeError: T is 0; sizes or devices do not match, as in nn.RNN; the batch_sizes of a
                PackedSequence do not match its data; expanded weights are used with a feature that
                nn.RNN lacks.
        """
        if (
            isinstance(input, Proxy)
            or (hx is not None and isinstance(hx, Proxy))
            or (lengths is not None and isinstance(lengths, Proxy))
            or (resets is not None and isinstance(resets, Proxy))
        ):
            result = record_call(self, input, hx, lengths=lengths, resets=resets)
            if result is not None:
                return result
        weights = self._weights()
        if are_expanded(weights):
            reject_beyond_nn_rnn(
                lengths=lengths is not None,
                resets=resets is not None,
                num_heads=self.num_heads != 1,
                learned_h0=self.learned_h0,
            )
            return nn.RNN.forward(self, input, hx)  # type: ignore[call-overload]
        if isinstance(input, PackedSequence):
            return self._forward_packed(weights, input, hx, lengths, resets)
        dim = input.dim()
        if dim not in (2, 3):
            raise ValueError(f"RNN: Expected input to be 2D or 3D, got {dim}D tensor instead")
        if hx is not None and hx.dim() != dim:
            kind = "batched 3-D" if dim == 3 else "unbatched 2-D"
            raise RuntimeError(
                f"For {kind} input, hx should also be {dim}-D but got {hx.dim()}-D tensor"
            )
        if dim == 2:
            _checks.no_lengths(lengths, "2-D input: remove the padding of a single sequence")
            hx = hx if hx is None else hx.unsqueeze(1)
            if resets is not None:
                resets = _checks.resets(resets, input.shape[:1], input.device).unsqueeze(1)
            output, h_n = self._run(weights, input.unsqueeze(1), hx, 1, Ragged(resets=resets))
            return output.squeeze(1), h_n.squeeze(1)
        if resets is not None:
            resets = _checks.resets(resets, input.shape[:2], input.device)
            resets = resets.transpose(0, 1) if self.batch_first else resets
        if self.batch_first:
            input = input.transpose(0, 1)
        if lengths is not None:
            _checks.lengths(lengths, input.size(1), input.device)
        ragged = DENSE
        if lengths is not None or resets is not None:
            ragged = Ragged(lengths, None, resets)
        output, h_n = self._run(weights, input, hx, input.size(1), ragged)
        return output.transpose(0, 1) if self.batch_first else output, h_n

    def step(
        self, input: Tensor, hx: Tensor | None = None, *, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run one step of every row, for sequences that arrive step by step.

        Stepping through a sequence, with each step's h_n as the next step's hx, computes the same
        as `forward` on the whole sequence. The CPU kernels give the same bits if autograd does not
        record the step. torch's own operations run a recorded step, as they do for sequences of
        length 1 in `forward`.

        Args:
            input: [B, I], or [I] for one sequence; of the parameters' dtype, except under autocast.
            hx: [L, B, H], or [L, H] for one sequence: the states before the step. None: the initial
                states.
            resets: bool, [B], or [] for one sequence, on input's device. Where true, row b begins a
                new sequence at this step and ignores hx. In reinforcement learning: whether the
                previous step ended the episode.

        Returns:
            output: [B, H], or [H]: the last layer's state.
            h_n: [L, B, H], or [L, H]: the states after the step.

        Raises:
            ValueError: the layer is bidirectional; input is neither 1-D nor 2-D, or its dtype is
                not that of the parameters; hx does not have one dimension more than input; resets
                have a wrong shape, dtype or device.
            RuntimeError: sizes or devices do not match, as in `forward`.
        """
        if self.bidirectional:
            raise ValueError(
                "a bidirectional layer has no single steps, as its outputs depend on all later "
                "steps: call it with the whole sequence"
            )
        dim = input.dim()
        if dim not in (1, 2):
            raise ValueError(f"step: expected input [B, I] or [I], got {dim}D tensor instead")
        if hx is not None and hx.dim() != dim + 1:
            raise ValueError(
                f"step: for {dim}-D input, hx should be {dim + 1}-D but got {hx.dim()}-D tensor"
            )
        if resets is not None:
            _checks.resets(resets, input.shape[:-1], input.device)
        if dim == 1:
            output, h_n = self.step(
                input.unsqueeze(0),
                hx if hx is None else hx.unsqueeze(1),
                resets=resets if resets is None else resets.unsqueeze(0),
            )
            return output.squeeze(0), h_n.squeeze(1)
        resets = resets if resets is None else resets.unsqueeze(0)
        weights = self._weights()
        if hx is not None and self._is_simple_step(weights, input, hx, resets):
            output, last = single_step(input, State(hx), weights, resets, self.mode)
            return output, last.h
        output, h_n = self._run(
            weights,
            input.unsqueeze(0),
            hx,
            input.size(0),
            Ragged(resets=resets),
            prefer_kernels=True,
        )
        return output.squeeze(0), h_n

    def _is_simple_step(
        self, weights: list[Any], input: Tensor, hx: Tensor, resets: Tensor | None
    ) -> bool:
        """Whether `single_step` can run a step. `_run` handles all other cases and errors."""
        return (
            is_plain(input, hx, *weights)
            and not is_recording(*weights, input, hx)
            and not is_any_autocast()
            and (requested() == "auto" or (requested() == "cpu" and input.is_cpu))
            and input.size(1) == self.input_size
            and hx.shape == (self.num_layers, input.size(0), self.hidden_size)
            and not (self.training and self.dropout > 0)
            and (resets is None or not self.learned_h0)
        )

    def _forward_packed(
        self,
        weights: list[Any],
        input: PackedSequence,
        hx: Tensor | None,
        lengths: Tensor | None,
        resets: Tensor | PackedSequence | None,
    ) -> tuple[PackedSequence, Tensor]:
        _checks.no_lengths(lengths, "a PackedSequence, which has its own")
        data, batch_sizes, sorted_indices, unsorted_indices = input
        # A trace of a learned initial state would fix the batch size.
        starts_elsewhere = torch.jit.is_tracing() and hx is None and self.learned_h0
        in_torch = stack.runs_in_torch(
            data,
            hx if hx is None else State(hx),
            weights,
            self._options(),
            is_eager(),
            expressible=resets is None and self.num_heads == 1 and not starts_elsewhere,
            batch_sizes=batch_sizes,
            prefer_kernels=True,
        )
        if in_torch and torch.jit.is_tracing():
            return nn.RNN.forward(self, input, hx)  # type: ignore[call-overload]
        if hx is not None:
            hx = self.permute_hidden(hx, sorted_indices)
        if in_torch:
            output, h_n = self._run(weights, data, hx, int(batch_sizes[0]), DENSE, batch_sizes)
        else:
            batch = None
            if sorted_indices is not None:
                batch = sorted_indices.size(0)
            elif hx is not None and torch.compiler.is_compiling():
                batch = hx.size(1)
            lengths, offsets = packed_layout(batch_sizes, data, batch)
            if resets is not None:
                resets = _checks.packed_resets(resets, input)
            ragged = Ragged(lengths, offsets, resets)
            output, h_n = self._run(weights, data, hx, lengths.shape[0], ragged)
        packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return packed, self.permute_hidden(h_n, unsorted_indices)

    def _options(self) -> Options:
        # Read only where needed: torch.compile traces a graph twice if it reads a float.
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        return Options(
            self.mode,
            self.bias,
            self.num_layers,
            dropout,
            self.training,
            self.bidirectional,
        )

    def _run(
        self,
        weights: list[Any],
        input: Tensor,  # [T, B, I], or [N, I] with offsets
        hx: Tensor | None,  # [D·L, B, H]
        batch: int,
        ragged: Ragged = DENSE,
        batch_sizes: Tensor | None = None,  # [T], for packed data that torch's own loop runs
        prefer_kernels: bool = False,
    ) -> tuple[Tensor, Tensor]:
        packed = ragged.is_packed() or batch_sizes is not None
        if (
            input.dtype != weights[0].dtype
            or input.size(-1) != self.input_size
            or (packed and input.dim() != 2)
        ):
            # Raises, except for a dtype that autocast will cast.
            self.check_input(input, ragged.offsets if packed else None)
        if hx is not None:
            directions = 2 if self.bidirectional else 1
            self.check_hidden_size(hx, (self.num_layers * directions, batch, self.hidden_size))
        _checks.attributes(input, weights[0], hx)
        if not packed:
            _checks.steps(input.size(0))
        h0 = self.h0 if self.learned_h0 else None
        if hx is None and h0 is not None:
            hx = h0.unsqueeze(1).expand(-1, batch, -1)
        per_direction = 4 if self.bias else 2
        if len(weights) > per_direction:
            _checks.equal_heads(weights[1::per_direction])
        options = self._options()
        output, last = stack.run(
            input,
            None if hx is None else State(hx),
            weights,
            ragged,
            None if h0 is None else State(h0),
            options,
            batch_sizes,
            prefer_kernels,
        )
        return output, last.h
