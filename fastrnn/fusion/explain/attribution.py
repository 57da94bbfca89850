"""Integrated gradients over steps, pixels, audio frames, tokens or a numeric series.

Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, 2017. The attributions of an
input sum to the difference between its logit and that of an uninformative baseline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..batch import Batch
from ..config.inputs import modality_of
from ..models.network import FusionNetwork, LateNetwork
from ..models.tabular import TabularEncoder

Selector = Callable[[Tensor], Tensor]  # a network's logits -> the scalar to explain, []

STEPS = 32  # points on the path from the baseline to the input


def integrated_gradients(
    function: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, steps: int = STEPS
) -> Tensor:
    """Compute (x - baseline) times the mean gradient on the path from baseline to x.

    The mean is approximated by the midpoint rule.

    Args:
        function: maps a tensor of x's shape to a scalar, [].
        x: floating-point tensor of any shape.
        baseline: tensor of x's shape, or of one that expands to it.
        steps: points on the path.
    """
    delta = x - baseline
    total = torch.zeros_like(x)
    # A custom encoder may have a recurrent layer of torch: on cuDNN, it has no backward pass in
    # evaluation mode.
    with torch.backends.cudnn.flags(enabled=False):
        for number in range(steps):
            point = (baseline + (number + 0.5) / steps * delta).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(function(point), point)
            total += gradient
    return delta * total / steps


def over_steps(network: FusionNetwork, batch: Batch, select: Selector) -> Tensor:
    """Attribute one row's logit to the steps that the recurrent layer reads, [T]; baseline 0.

    They sum to what the fusion adds to the logit, by its weight in the mixture.
    """
    with torch.no_grad():
        x, lengths, state = network.sequence(network.encode(batch), batch)

    def function(x: Tensor) -> Tensor:
        return select(network.mixture[0] * network.head(x, state, lengths=lengths)[0])

    return integrated_gradients(function, x, torch.zeros_like(x)).sum(-1)[0]


def over_input(network: nn.Module, batch: Batch, name: str, select: Selector) -> Tensor:
    """Attribute one row's logit to the values of an input.

    | modality | returns | baseline |
    |---|---|---|
    | image | [U, S, S], one for each distinct image, summed over channels | grey, 127.5 |
    | audio | [F, mels]; of a waveform [F, 1] | the clip's mean in each band |
    | series | [L, K] | the mean of the training rows |
    | text | [L], one for each token | zero embeddings |
    | tabular | [N + C], one for each number and category | the training mean; zero embeddings |
    """
    if name == "tabular":
        return _over_columns(network, batch, select)
    modality = modality_of(name)
    if modality == "text":
        return _over_tokens(network, batch, name, select)
    key = f"{name}_frames" if modality == "image" else name
    x = batch[key].to(_dtype(network))
    if modality == "image":
        baseline = torch.full_like(x, 127.5)
    elif modality == "audio":
        baseline = x.mean(1, keepdim=True).expand_as(x)
    else:
        baseline = torch.zeros_like(x)
    found = integrated_gradients(lambda x: select(network({**batch, key: x})), x, baseline)
    if modality == "image":
        return found.sum(1)
    return found[0] if found.dim() == 3 else found[0][:, None]  # a waveform has one band


def _over_tokens(network: nn.Module, batch: Batch, name: str, select: Selector) -> Tensor:
    encoder, embed = _encoder(network, name), embedding(network, name)
    if embed is None:
        raise ValueError(f"the encoder of {name} has no token embedding")
    with torch.no_grad():
        x = embed(batch[name])

    def function(x: Tensor) -> Tensor:
        with _replaced(encoder, embed, batch[name], x):
            return select(network(batch))

    return integrated_gradients(function, x, torch.zeros_like(x)).sum(-1)[0]


def over_ngrams(network: nn.Module, batch: Batch, name: str, select: Selector) -> Tensor:
    """Attribute one row's logit to the n-grams of a text, [G]; the baseline has none."""
    key = f"{name}_ngram_weights"
    x = batch[key].to(_dtype(network))
    return integrated_gradients(
        lambda x: select(network({**batch, key: x})), x, torch.zeros_like(x)
    )[0]


def spread(
    values: Mapping[int, float],
    occurrences: Iterable[tuple[int, int, int]],
    tokens: Sequence[tuple[int, int]],
) -> Tensor:
    """Divide the attributions of n-grams equally among the tokens that they overlap, [L].

    Args:
        values: the attribution of each n-gram by number.
        occurrences: the number, the start and the end of each n-gram in the text.
        tokens: the start and the end of each token. An n-gram beyond them, in a text that is
            truncated to the first tokens, counts for the last token.
    """
    places = list(occurrences)
    count = Counter(number for number, _, _ in places)
    result = torch.zeros(len(tokens))
    for number, start, end in places:
        over = [at for at, (a, b) in enumerate(tokens) if a < end and start < b]
        for at in over or [-1]:
            result[at] += values[number] / count[number] / max(1, len(over))
    return result


def _over_columns(network: nn.Module, batch: Batch, select: Selector) -> Tensor:
    encoder = _encoder(network, "tabular")
    if not isinstance(encoder, TabularEncoder):
        raise ValueError("the encoder of tabular columns is a custom one")
    vectors = encoder.columns
    numbers = batch["tabular"].shape[1]
    mean = {"tabular": torch.zeros_like(batch["tabular"])}
    mean["tabular_known"] = torch.ones_like(batch["tabular_known"])
    with torch.no_grad():
        x, baseline = vectors(batch), vectors({**batch, **mean})
    baseline[:, numbers:] = 0

    def function(x: Tensor) -> Tensor:
        with _hooks(vectors.register_forward_hook(lambda *_: x)):
            return select(network(batch))

    return integrated_gradients(function, x, baseline).sum(-1)[0]


def can_attribute(network: nn.Module, name: str) -> bool:
    """Whether `over_input` supports the encoder of an input, which may be a custom one."""
    if modality_of(name) == "text":
        return embedding(network, name) is not None
    return name != "tabular" or isinstance(_encoder(network, name), TabularEncoder)


def _encoder(network: nn.Module, name: str) -> nn.Module:
    if not isinstance(network, FusionNetwork | LateNetwork):
        raise TypeError(f"a {type(network).__name__} has no encoder of {name}")
    return network.encoder(name)


def embedding(network: nn.Module, name: str) -> nn.Embedding | None:
    """Return the token embedding of a text; None if a custom encoder has no nn.Embedding."""
    modules = _encoder(network, name).modules()
    return next((each for each in modules if isinstance(each, nn.Embedding)), None)


@contextmanager
def _replaced(
    encoder: nn.Module, embed: nn.Module, tokens: Tensor, output: Tensor
) -> Iterator[None]:
    """Replace the embedding of `tokens`; other texts may share the encoder."""
    active = False

    def begin(_: nn.Module, arguments: tuple[Batch]) -> None:
        nonlocal active
        active = arguments[0]["text"] is tokens

    handles = [
        encoder.register_forward_pre_hook(begin),
        embed.register_forward_hook(lambda _, __, found: output if active else found),
    ]
    with _hooks(*handles):
        yield


@contextmanager
def _hooks(*handles: RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype
