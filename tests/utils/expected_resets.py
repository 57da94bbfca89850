"""Expected results of features that nn.RNN lacks, computed with nn.RNN: heads and resets."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fastrnn import FusedRNN


def run_nn_rnn(rnn: FusedRNN, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run nn.RNN with the same weights, with the heads as one block-diagonal matrix.

    The results are differentiable in the parameters of ``rnn``. x [T, I] is one sequence.
    """
    weights = {
        name: torch.block_diag(*p) if p.dim() == 3 else p
        for name, p in rnn.named_parameters()
        if name != "h0"
    }
    args = rnn.input_size, rnn.hidden_size, rnn.num_layers, rnn.nonlinearity, rnn.bias
    torch_layer = nn.RNN(*args, bidirectional=rnn.bidirectional, device="meta")
    return torch.func.functional_call(torch_layer, weights, (x, hx))


def run_separately(
    rnn: FusedRNN, x: Tensor, hx: Tensor, start: Tensor, resets: Tensor, lengths: list[int]
) -> tuple[Tensor, Tensor]:
    """Run every sequence of every row separately with nn.RNN.

    Args:
        x: [T, B, I].
        hx: [D·L, B, H], the initial states of each row's first sequence.
        start: [D·L, H], the initial states of all other sequences.
        resets: [T, B].
        lengths: of each row.

    Returns:
        The padded output [T, B, D·H] and h_n [D·L, B, H].
    """
    # Whether a state is of the reverse direction, which runs a row's last sequence first.
    reverse = torch.arange(len(start))[:, None] % 2 == (1 if rnn.bidirectional else 2)
    outputs, last = [], []
    for b, length in enumerate(lengths):
        borders = [0, *(t for t in range(1, length) if resets[t, b]), length]
        output = [x.new_zeros(0, rnn.hidden_size * (2 if rnn.bidirectional else 1))]
        h_n = hx[:, b]
        for a, z in itertools.pairwise(borders):
            if a == z:
                continue  # a row of length 0
            continues = a == 0 and not resets[0, b]
            first = (~reverse & continues) | (reverse & (z == length))
            part, state = run_nn_rnn(rnn, x[a:z, b], hx[:, b].where(first, start))
            output.append(part)
            h_n = state if a == 0 else h_n.where(reverse, state)
        outputs.append(nn.functional.pad(torch.cat(output), (0, 0, 0, len(x) - length)))
        last.append(h_n)
    return torch.stack(outputs, 1), torch.stack(last, 1)


def run(
    rnn: FusedRNN, kind: str, x: Tensor, hx: Tensor | None, resets: Tensor, lengths: list[int]
) -> tuple[Tensor, Tensor]:
    """Run ``rnn`` on x [T, B, I], resets [T, B] in layout ``kind``; return padded output, h_n."""
    if rnn.batch_first:
        x, resets = x.transpose(0, 1), resets.transpose(0, 1)
    if kind == "padded":
        output, h_n = rnn(x, hx, lengths=torch.tensor(lengths), resets=resets)
    elif kind == "dense":
        output, h_n = rnn(x, hx, resets=resets)
    else:
        packed: list[Any] = [
            pack_padded_sequence(t, lengths, rnn.batch_first, enforce_sorted=kind == "sorted")
            for t in (x, resets)
        ]
        output, h_n = rnn(packed[0], hx, resets=packed[1])
        assert isinstance(output, PackedSequence)
        steps = x.shape[1 if rnn.batch_first else 0]
        output, _ = pad_packed_sequence(output, rnn.batch_first, total_length=steps)
    return output.transpose(0, 1) if rnn.batch_first else output, h_n
