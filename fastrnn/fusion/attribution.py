"""What an answer rests on: integrated gradients over steps, pixels, sound, tokens or a series.

Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, 2017. The attributions of an
input add up to how much it moves the logit, from that of a baseline that says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .data import Batch
from .network import FusionNetwork

Judge = Callable[[Tensor], Tensor]  # a network's logits -> the number that is explained, []

STEPS = 32  # points of the path from the baseline to the input


def integrated_gradients(
    function: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, steps: int = STEPS
) -> Tensor:
    """(x - baseline) times the mean gradient on the way between, by the midpoint rule.

    Args:
        function: takes a tensor of x's shape, returns a number, [].
        x: any shape, floating.
        baseline: of x's shape, or one that expands to it.
    """
    way = x - baseline
    total = torch.zeros_like(x)
    # cuDNN's recurrent layers refuse gradients in evaluation mode
    with torch.backends.cudnn.flags(enabled=False):
        for number in range(steps):
            point = (baseline + (number + 0.5) / steps * way).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(function(point), point)
            total += gradient
    return way * total / steps


def over_steps(network: FusionNetwork, batch: Batch, judge: Judge) -> Tensor:
    """Of one row: what each step that the recurrent layer reads adds, [T]; baseline: zeros."""
    with torch.no_grad():
        x, lengths, h0 = network.sequence(network.encode(batch), batch)

    def function(x: Tensor) -> Tensor:
        return judge(network.head(x, h0, lengths=lengths)[0])

    return integrated_gradients(function, x, torch.zeros_like(x)).sum(-1)[0]


def over_input(network: nn.Module, batch: Batch, modality: str, judge: Judge) -> Tensor:
    """Of one row: what each number of a modality adds.

    | modality | returns | baseline |
    |---|---|---|
    | image | [U, S, S], each distinct image, channels added up | grey, 127.5 |
    | audio | [F, mels] | the clip's mean in each band |
    | series | [L, K] | the training rows' mean |
    | text | [L], each token | embeddings of zeros |
    """
    if modality == "text":
        return _over_tokens(network, batch, judge)
    key = "frames" if modality == "image" else modality
    x = batch[key].to(_dtype(network))
    if modality == "image":
        baseline = torch.full_like(x, 127.5)
    elif modality == "audio":
        baseline = x.mean(1, keepdim=True).expand_as(x)
    else:
        baseline = torch.zeros_like(x)
    found = integrated_gradients(lambda x: judge(network({**batch, key: x})), x, baseline)
    return found.sum(1) if modality == "image" else found[0]


def _over_tokens(network: nn.Module, batch: Batch, judge: Judge) -> Tensor:
    embed = embedding(network)
    if embed is None:
        raise ValueError("the network embeds no tokens")
    with torch.no_grad():
        x = embed(batch["text"])

    def function(x: Tensor) -> Tensor:
        with _replaced(embed, x):
            return judge(network(batch))

    return integrated_gradients(function, x, torch.zeros_like(x)).sum(-1)[0]


def embedding(network: nn.Module) -> nn.Embedding | None:
    """What embeds the tokens of a text; None where a user's encoder does it in another way."""
    return next((each for each in network.modules() if isinstance(each, nn.Embedding)), None)


@contextmanager
def _replaced(module: nn.Module, output: Tensor) -> Iterator[None]:
    handle = module.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype
