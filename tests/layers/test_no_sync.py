"""Layers do not synchronize with the device: they never read a tensor's values on the host.

Packing does: pack_padded_sequence needs its lengths on the CPU and reads them.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from fastrnn import FusedGRU, FusedLSTM, FusedRNN, ReadoutRNN

from ..utils.nn_rnn_parity import rnn_and_lstm, tensors

X = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([2, 5, 0])


class NoSync(TorchDispatchMode):
    """Rejects operations that need a value on the host. It runs on CPU tensors."""

    SYNCHRONIZING = (
        "_local_scalar_dense",
        "_pack_padded_sequence",
        "equal",
        "is_nonzero",
        "masked_select",
        "nonzero",
        "repeat_interleave.Tensor",
        "unique",
    )

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(operator).removeprefix("aten.")
        assert not name.startswith(self.SYNCHRONIZING), f"{operator} synchronizes with the device"
        if name.startswith("index"):  # the size of the result depends on a mask's values
            masks = [i for i in args[1] if i is not None] if isinstance(args[1], list) else []
            assert all(i.dtype not in (torch.bool, torch.uint8) for i in masks), operator
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("choice", [FusedRNN, FusedLSTM, FusedGRU, ReadoutRNN])
def test_forward_and_backward_with_lengths_and_resets(choice, bidirectional, steps):
    sizes = (3, 4, 2, 2) if choice is ReadoutRNN else (3, 4, 2)
    options = {"bidirectional": bidirectional, "dropout": 0.5, "learned_h0": True}
    layer = choice(*sizes, **options)
    resets = torch.rand(steps, 3) < 0.5
    x = X[:steps].clone().requires_grad_()
    with NoSync():
        sum(t.sum() for t in tensors(layer(x, lengths=LENGTHS, resets=resets))).backward()
        with torch.no_grad():
            layer(x, lengths=LENGTHS, resets=resets)
    assert x.grad is not None


@rnn_and_lstm
def test_double_backward_with_lengths(ours):
    layer = ours(3, 4, dtype=torch.float64)
    x = X.double().requires_grad_()
    with NoSync():
        output, _ = layer(x, lengths=LENGTHS)
        (slope,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        slope.square().sum().backward()
    assert layer.weight_hh_l0.grad is not None


SYNCHRONIZING_CALLS = {
    "item": lambda x: LENGTHS.max().item(),
    "packing": lambda x: pack_padded_sequence(x, LENGTHS.clamp(min=1), enforce_sorted=False),
    "a mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "a condition": lambda x: bool(x.sum() > 0),
}


@pytest.mark.parametrize("call", SYNCHRONIZING_CALLS.values(), ids=SYNCHRONIZING_CALLS)
def test_check_detects_synchronizing_operations(call: Any) -> None:
    x: Tensor = X.clone()
    with NoSync(), pytest.raises(AssertionError):
        call(x)
