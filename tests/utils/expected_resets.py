"""Expected results of features that torch's layers lack, computed with them: heads and resets."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .nn_rnn_parity import TORCH, tensors


def block_diagonal(weight_hh: Tensor) -> Tensor:
    """Return W_hh [K·H, H] of heads [n, K·H/n, H/n]: a block-diagonal matrix for each gate."""
    size = weight_hh.shape[2]
    gates = weight_hh.unflatten(1, (-1, size)).unbind(1)  # K of [n, H/n, H/n]
    return torch.cat([torch.block_diag(*heads) for heads in gates])


def run_torch(rnn: Any, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """Run torch's layer with the same weights, with the heads as one block-diagonal matrix.

    The results are differentiable in the parameters of ``rnn``. x [T, I] is one sequence.
    """
    weights = {
        name: block_diagonal(p) if p.dim() == 3 else p
        for name, p in rnn.named_parameters()
        if name not in ("h0", "c0")
    }
    options = {"bias": rnn.bias, "bidirectional": rnn.bidirectional, "device": "meta"}
    if rnn.mode.startswith("RNN"):
        options["nonlinearity"] = rnn.nonlinearity
    layer = TORCH[type(rnn)](rnn.input_size, rnn.hidden_size, rnn.num_layers, **options)
    return torch.func.functional_call(layer, weights, (x, hx))


def learned(rnn: Any) -> Any:
    """Return the learned initial states, as an hx [D·L, H]."""
    return (rnn.h0, rnn.c0) if rnn.mode == "LSTM" else rnn.h0


def run_separately(
    rnn: Any, x: Tensor, hx: Any, start: Any, resets: Tensor, lengths: list[int]
) -> tuple[Tensor, Any]:
    """Run every sequence of every row separately with torch's layer.

    Args:
        x: [T, B, I].
        hx: [D·L, B, H], or a pair of such: the initial states of each row's first sequence.
        start: [D·L, H], or a pair of such: the initial states of all other sequences.
        resets: [T, B].
        lengths: of each row.

    Returns:
        The padded output [T, B, D·H] and h_n [D·L, B, H], or a pair.
    """
    # Whether a state is of the reverse direction, which runs a row's last sequence first.
    states = rnn.num_layers * (2 if rnn.bidirectional else 1)
    reverse = torch.arange(states)[:, None] % 2 == (1 if rnn.bidirectional else 2)
    outputs, last = [], []
    for b, length in enumerate(lengths):
        borders = [0, *(t for t in range(1, length) if resets[t, b]), length]
        output = [x.new_zeros(0, rnn.hidden_size * (2 if rnn.bidirectional else 1))]
        of_row = [h[:, b] for h in tensors(hx)]
        h_n = of_row
        for a, z in itertools.pairwise(borders):
            if a == z:
                continue  # a row of length 0
            continues = a == 0 and not resets[0, b]
            first = (~reverse & continues) | (reverse & (z == length))
            given = [h.where(first, s) for h, s in zip(of_row, tensors(start), strict=True)]
            part, state = run_torch(rnn, x[a:z, b], given[0] if len(given) == 1 else tuple(given))
            output.append(part)
            new = tensors(state)
            if a > 0:
                new = [h.where(reverse, s) for h, s in zip(h_n, new, strict=True)]
            h_n = new
        outputs.append(nn.functional.pad(torch.cat(output), (0, 0, 0, len(x) - length)))
        last.append(h_n)
    h_n = [torch.stack(rows, 1) for rows in zip(*last, strict=True)]
    return torch.stack(outputs, 1), h_n[0] if len(h_n) == 1 else tuple(h_n)


def run(
    rnn: Any, kind: str, x: Tensor, hx: Any, resets: Tensor, lengths: list[int]
) -> tuple[Tensor, Any]:
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
