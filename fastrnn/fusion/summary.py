"""What to know of a network before it is trained: its size, and what it cannot do by design."""

from __future__ import annotations

from .config import ModelConfig
from .network import FusionNetwork, LateNetwork, blueprint


def parameters(config: ModelConfig) -> int:
    """How many numbers the network learns, counted without taking memory for them."""
    return sum(each.numel() for each in blueprint(config).parameters())


def note(config: ModelConfig) -> str:
    """What to know of a network before it is trained: its size, and a weakness it has by design."""
    network = blueprint(config)
    text = f"{sum(each.numel() for each in network.parameters()):,} parameters"
    text += _largest(network) + "."
    if config.fusion == "concat" and config.cell != "none":
        text += (
            " Its recurrent layer reads one step from a zero state, so W_hh never gets a gradient "
            "and is as if it were not there: what one modality means in the light of another must "
            'come out of a single sum. Fusion "tokens" reads a step a modality and their products.'
        )
    if config.fusion == "late":
        text += " It adds logits: no modality sees another."
    return text


def _largest(network: FusionNetwork | LateNetwork) -> str:
    """Where most of the parameters are, if it is one place."""
    sizes = {name: each.numel() for name, each in network.named_parameters()}
    name = max(sizes, key=lambda each: sizes[each])
    if sizes[name] < sum(sizes.values()) / 2:
        return ""
    shape = " × ".join(f"{size:,}" for size in network.get_parameter(name).shape)
    return f", {sizes[name] / sum(sizes.values()):.1%} of them in {name} ({shape})"
