"""Describe a network before training: its size, and its limits by design."""

from __future__ import annotations

from ..config.schema import ModelConfig
from .network import FusionNetwork, LateNetwork, blueprint


def parameters(config: ModelConfig) -> int:
    """Count the network's parameters without allocating them."""
    return sum(each.numel() for each in blueprint(config).parameters())


def note(config: ModelConfig) -> str:
    """Describe a network's size, and the weakness of its fusion, if there is one."""
    network = blueprint(config)
    text = f"{sum(each.numel() for each in network.parameters()):,} parameters"
    text += _largest(network) + "."
    if config.fusion == "concat" and config.cell != "none":
        text += (
            " The recurrent layer reads one step from a zero state, so W_hh never gets a gradient "
            "and has no effect: modalities interact only through a single sum. Fusion tokens reads "
            "one step per modality and their products."
        )
    if config.fusion == "late":
        text += " Fusion late adds logits: modalities do not interact."
    return text


def _largest(network: FusionNetwork | LateNetwork) -> str:
    """Name the tensor with more than half of the parameters, if there is one."""
    sizes = {name: each.numel() for name, each in network.named_parameters()}
    name = max(sizes, key=lambda each: sizes[each])
    if sizes[name] < sum(sizes.values()) / 2:
        return ""
    shape = " × ".join(f"{size:,}" for size in network.get_parameter(name).shape)
    return f", {sizes[name] / sum(sizes.values()):.1%} of them in {name} ({shape})"
