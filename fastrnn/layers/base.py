"""`FusedRNNBase`: the calls of all fused layers.

This file checks the arguments and raises the errors of torch's layers. `ops.stack.run` computes the
result.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .. import _checks
from ..ops import stack
from ..ops._eager import PLAIN_TYPES, is_eager
from ..ops._torch_private import is_any_autocast, without_onednn
from ..ops.arguments import State
from ..ops.backends import dispatch, torch_rnn
from ..ops.cells import CODES
from ..ops.layer import layer
from ..ops.options import Options
from ..ops.packed import packed_layout
from ..ops.ragged import DENSE, Ragged
from ._expanded_weights import are_expanded, reject_beyond_torch
from ._fx import is_traced, record_call
from .parameters import FusedRNNParameters

#: The dtypes of which our kernels run every call.
_DTYPES = torch.float32, torch.float64

#: `auto` must choose for layers of more hidden units, and calls of at most so many rows.
_ONE_ROW_HIDDEN, _ONE_ROW = torch_rnn.ONE_ROW_HIDDEN, max(torch_rnn.ONE_ROW_STEPS)

#: The type of hx and h_n: a Tensor, or for the LSTM the pair (h, c).
Hidden = TypeVar("Hidden")


class FusedRNNBase(FusedRNNParameters, Generic[Hidden]):
    """The calls of a layer, on a batch of sequences and on single steps.

    A subclass names the layer of torch that it replaces. A layer with a second state converts
    between the `Hidden` of its callers and a `State`.
    """

    #: The layer of torch with the same parameters.
    _torch_layer: ClassVar[Any]
    #: How torch's error about the size of a state calls it.
    _state_names: ClassVar[tuple[str, ...]] = ("hidden",)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Hidden | None = None,
        # Not keyword-only: torch.onnx.export(dynamo=False) passes all arguments by position.
        lengths: Tensor | None = None,
        resets: Tensor | PackedSequence | None = None,
    ) -> tuple[Tensor | PackedSequence, Hidden]:
        """Run over a batch of sequences.

        Args:
            input: [T, B, I]; [B, T, I] with ``batch_first``; [T, I] for one sequence; or a
                PackedSequence, sorted or not. T is at least 1. The dtype is that of the
                parameters, except under autocast.
            hx: [D·L, B, H], or [D·L, H] for one sequence: the initial states. For `FusedLSTM` a
                pair (h_0, c_0) of such tensors. None: the learned initial states with
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
                and t. At step 0, the forward direction ignores hx. With r = resets, step t reads
                the state (1 - r_t) h_{t-1} + r_t h0 instead of h_{t-1}, and c likewise: a new
                sequence starts from zeros, or from h0 with ``learned_h0``. h_n is the state after
                a row's last sequence, and in the reverse direction after its first. Resets of
                padding have no effect. In reinforcement learning, where the observation after the
                end of an episode is the first of the next, resets[t] = done[t - 1].
                For a PackedSequence, resets are a PackedSequence of bools made with the same
                lengths: ``pack_padded_sequence(resets, lengths, ...)`` with resets [T, B].

        Returns:
            output: [T, B, D·H], [B, T, D·H], [T, D·H] or a PackedSequence, like the input.
            h_n: [D·L, B, H], or [D·L, H] for one sequence: the final state of each row. For
                `FusedLSTM` a pair (h_n, c_n) of such tensors.

        Raises:
            ValueError: input is neither 2-D nor 3-D, or its dtype is not that of the parameters;
                lengths have a wrong shape, dtype or device, or the input is not padded; resets
                have a wrong shape, dtype or device, or are not packed as input is. On a GPU and in
                compiled code, an asynchronous assertion compares the orders of rows, without
                synchronizing.
            RuntimeError: T is 0; sizes or devices do not match, as in torch's layer; the
                batch_sizes of a PackedSequence do not match its data; expanded weights are used
                with a feature that torch's layer lacks.
        """
        if lengths is None and resets is None:
            done = self._forward_plain(input, hx)
            if done is not None:
                return done
        if is_traced(input, hx, lengths, resets):
            result = record_call(self, input, hx, lengths=lengths, resets=resets)
            if result is not None:
                return result
        weights = self._weights()
        if self.proj_size or are_expanded(weights):
            return self._forward_of_torch(input, hx, lengths, resets)
        if isinstance(input, PackedSequence):
            return self._forward_packed(weights, input, hx, lengths, resets)
        dim = input.dim()
        if dim not in (2, 3):
            kind, noun = ("RNN", " tensor") if self.mode.startswith("RNN") else (self.mode, "")
            raise ValueError(f"{kind}: Expected input to be 2D or 3D, got {dim}D{noun} instead")
        state = None
        if hx is not None:
            state = self._state(hx)
            _checks.state_dims(state, dim)
        if dim == 2:
            _checks.no_lengths(lengths, "2-D input: remove the padding of a single sequence")
            if resets is not None:
                resets = _checks.resets(resets, input.shape[:1], input.device).unsqueeze(1)
            state = state if state is None else state.map(lambda x: x.unsqueeze(1))
            output, last = self._run(weights, input.unsqueeze(1), state, 1, Ragged(resets=resets))
            return output.squeeze(1), self._hidden(last.map(lambda x: x.squeeze(1)))
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
        output, last = self._run(weights, input, state, input.size(1), ragged)
        return output.transpose(0, 1) if self.batch_first else output, self._hidden(last)

    def step(
        self, input: Tensor, hx: Hidden | None = None, *, resets: Tensor | None = None
    ) -> tuple[Tensor, Hidden]:
        """Run one step of every row, for sequences that arrive step by step.

        Stepping through a sequence, with each step's h_n as the next step's hx, computes the same
        as `forward` on the whole sequence. The CPU kernels give the same bits.

        Args:
            input: [B, I], or [I] for one sequence; of the parameters' dtype, except under autocast.
            hx: [L, B, H], or [L, H] for one sequence: the states before the step. For `FusedLSTM` a
                pair (h, c) of such tensors. None: the initial states.
            resets: bool, [B], or [] for one sequence, on input's device. Where true, row b begins a
                new sequence at this step and ignores hx. In reinforcement learning: whether the
                previous step ended the episode.

        Returns:
            output: [B, H], or [H]: the last layer's h.
            h_n: [L, B, H], or [L, H]: the states after the step. For `FusedLSTM` a pair (h, c).

        Raises:
            ValueError: the layer is bidirectional, or has a ``proj_size``; input is neither 1-D nor
                2-D, or its dtype is not that of the parameters; hx does not have one dimension more
                than input; resets have a wrong shape, dtype or device.
            RuntimeError: sizes or devices do not match, as in `forward`.
        """
        if self.bidirectional:
            raise ValueError(
                "a bidirectional layer has no single steps, as its outputs depend on all later "
                "steps: call it with the whole sequence"
            )
        if self.proj_size:
            _checks.no_projection(step=True)
        dim = input.dim()
        if dim not in (1, 2):
            raise ValueError(f"step: expected input [B, I] or [I], got {dim}D tensor instead")
        state = None
        if hx is not None:
            state = self._state(hx)
            _checks.step_dims(state, dim)
        if resets is not None:
            _checks.resets(resets, input.shape[:-1], input.device)
        if dim == 2:
            ragged = DENSE if resets is None else Ragged(resets=resets.unsqueeze(0))
            done = self._run_plain(input, hx, ragged)
            if done is not None:
                return done
            output, last = self._step(input, state, resets)
            return output, self._hidden(last)
        output, last = self._step(
            input.unsqueeze(0),
            state if state is None else state.map(lambda x: x.unsqueeze(1)),
            resets if resets is None else resets.unsqueeze(0),
        )
        return output.squeeze(0), self._hidden(last.map(lambda x: x.squeeze(1)))

    @property
    def _cell(self) -> str:
        """The mode of the cell in `ops.cells`."""
        return self.mode

    def _learned_state(self) -> State:
        """Return the learned initial states, [D·L, H] each."""
        return State(*(getattr(self, name) for name in self._learned))

    def _state(self, hx: Any) -> State:
        """Return the State of an hx, which may have any shape."""
        return State(hx)

    def _hidden(self, state: State) -> Any:
        """Return the h_n of a State."""
        return state.h

    def _forward_of_torch(
        self,
        input: Tensor | PackedSequence,
        hx: Hidden | None,
        lengths: Tensor | None,
        resets: Tensor | PackedSequence | None,
    ) -> tuple[Tensor | PackedSequence, Hidden]:
        """Call the forward of torch's layer, for what only that supports."""
        given = {"lengths": lengths is not None, "resets": resets is not None}
        if self.proj_size:
            _checks.no_projection(**given)
            return self._torch_layer.forward(self, input, hx)
        learned, heads = self.learned_h0, self.num_heads != 1
        leak = self._cell != self.mode
        reject_beyond_torch(**given, num_heads=heads, learned_h0=learned, leak=leak)
        # Expanded weights do not support oneDNN's LSTM, which nn.LSTM calls.
        with without_onednn():
            return self._torch_layer.forward(self, input, hx)

    def _forward_packed(
        self,
        weights: list[Any],
        input: PackedSequence,
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | PackedSequence | None,
    ) -> tuple[PackedSequence, Hidden]:
        _checks.no_lengths(lengths, "a PackedSequence, which has its own")
        data, batch_sizes, sorted_indices, unsorted_indices = input
        state = None if hx is None else self._state(hx)
        # A trace of a learned initial state would fix the batch size.
        starts_elsewhere = torch.jit.is_tracing() and hx is None and self.learned_h0
        in_torch = stack.runs_in_torch(
            data,
            state,
            weights,
            self._options(),
            is_eager(),
            expressible=resets is None and self.num_heads == 1 and not starts_elsewhere,
            batch_sizes=batch_sizes,
            prefer_kernels=True,
        )
        if in_torch and torch.jit.is_tracing():
            return self._torch_layer.forward(self, input, hx)
        if hx is not None and sorted_indices is not None:
            state = self._state(self.permute_hidden(hx, sorted_indices))
        if in_torch:
            output, last = self._run(weights, data, state, int(batch_sizes[0]), DENSE, batch_sizes)
        else:
            batch = None
            if sorted_indices is not None:
                batch = sorted_indices.size(0)
            elif state is not None and torch.compiler.is_compiling():
                batch = state.h.size(1)
            lengths, offsets = packed_layout(batch_sizes, data, batch)
            if resets is not None:
                resets = _checks.packed_resets(resets, input)
            ragged = Ragged(lengths, offsets, resets)
            output, last = self._run(weights, data, state, lengths.shape[0], ragged)
        packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return packed, self.permute_hidden(self._hidden(last), unsorted_indices)

    def _step(
        self,
        input: Tensor,  # [B, I]
        state: State | None,  # [L, B, H] each
        resets: Tensor | None,  # [B]
    ) -> tuple[Tensor, State]:
        weights = self._weights()
        output, last = self._run(
            weights,
            input.unsqueeze(0),
            state,
            input.size(0),
            Ragged(resets=resets if resets is None else resets.unsqueeze(0)),
            prefer_kernels=True,
        )
        return output.squeeze(0), last

    def _forward_plain(self, input: Any, hx: Any) -> tuple[Tensor, Hidden] | None:
        """Run a dense batch by `_run_plain`; None if it cannot."""
        if type(input) not in PLAIN_TYPES or input.dim() != 3:
            return None
        if self.hidden_size > _ONE_ROW_HIDDEN and input.numel() <= _ONE_ROW * input.size(-1):
            return None
        if not self.batch_first:
            return self._run_plain(input, hx)
        result = self._run_plain(input.transpose(0, 1), hx)
        return result if result is None else (result[0].transpose(0, 1), result[1])

    def _run_plain(
        self,
        input: Tensor,  # [T, B, I], or [B, I] for one step
        hx: Any,
        ragged: Ragged = DENSE,
    ) -> tuple[Tensor, Hidden] | None:
        """Run a call on plain CPU tensors with few checks; None if `_run` must handle it.

        The checks of `_run` would take longer than a short call. The operator itself rejects
        wrong sizes, dtypes and devices, and then `_run` raises the error of torch's layer.
        """
        if (
            not is_eager()
            or type(input) not in PLAIN_TYPES
            or not input.is_cpu
            or input.dtype not in _DTYPES
            or is_any_autocast()
            or not dispatch.runs_cpu_kernels()
            or self.proj_size
            or (self.learned_h0 and (hx is None or ragged.resets is not None))
            or (self.training and self.dropout > 0 and self.num_layers > 1)
            or (hx is not None and is_traced(hx))
        ):
            return None
        weights = self._weights()
        state = None if hx is None else self._state(hx)
        for x in weights if state is None else (*weights, *state):
            if x is not None and not (type(x) in PLAIN_TYPES and x.is_cpu):
                return None
        directions = 2 if self.bidirectional else 1
        try:
            output, last = layer(
                input, state, weights, ragged, CODES[self._cell], self.num_layers, directions
            )
        except RuntimeError:
            return None
        return output, self._hidden(last)

    def _run(
        self,
        weights: list[Any],
        input: Tensor,  # [T, B, I], or [N, I] with offsets
        state: State | None,  # [D·L, B, H] each
        batch: int,
        ragged: Ragged = DENSE,
        batch_sizes: Tensor | None = None,  # [T], for packed data that torch's own loop runs
        prefer_kernels: bool = False,
    ) -> tuple[Tensor, State]:
        layout = ragged.offsets if batch_sizes is None else batch_sizes
        if (
            input.dtype != weights[0].dtype
            or input.size(-1) != self.input_size
            or (layout is not None and input.dim() != 2)
        ):
            # Raises, except for a dtype that autocast will cast.
            self.check_input(input, layout)
        if state is not None:
            directions = 2 if self.bidirectional else 1
            expected = self.num_layers * directions, batch, self.hidden_size
            for name, x in zip(self._state_names, state):  # noqa: B905 (the LSTM alone has a c)
                self.check_hidden_size(x, expected, f"Expected {name} size {{}}, got {{}}")
            _checks.attributes(input, weights[0], *state)
        else:
            _checks.attributes(input, weights[0])
        if layout is None:
            _checks.steps(input.size(0))
        learned = None
        if self.learned_h0:
            learned = self._learned_state()
            if state is None:
                state = learned.map(lambda x: x.unsqueeze(1).expand(-1, batch, -1))
        runs = self.num_layers * (2 if self.bidirectional else 1)
        if runs > 1:
            _checks.equal_heads(weights[1 :: len(weights) // runs])
        options = self._options()
        return stack.run(
            input, state, weights, ragged, learned, options, batch_sizes, prefer_kernels
        )

    def _options(self) -> Options:
        # Read only where needed: torch.compile traces a graph twice if it reads a float.
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        sizes = self._cell, self.bias, self.num_layers
        return Options(*sizes, dropout, self.training, self.bidirectional)
