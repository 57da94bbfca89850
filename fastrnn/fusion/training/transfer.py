"""Initialise a network from the weights of another, and freeze parts of it.

The parts of a network are its encoders, named by input or by modality; `fusion`, which is the
fusion and the recurrent layer; and `head`, the readouts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from ..config.inputs import modality_of
from ..config.pretrained_files import folder_of
from ..config.schema import ModelConfig, TrainConfig
from ..errors import ConfigError
from ..models.network import build
from ..models.pretrained import PretrainedEncoder
from ..strings import plural


def prepare(
    config: ModelConfig, training: TrainConfig, given: Mapping[str, Tensor] | None = None
) -> tuple[nn.Module, frozenset[str] | None]:
    """Build a network for training; return it and the names of the weights it took from `given`.

    Raises:
        ConfigError: the options contradict each other, or do not fit `given`.
    """
    network = build(config)
    _load_pretrained(network, config)
    taken = None if given is None else take(network, given)
    freeze(network, training.freeze, taken)
    return network, taken


def _load_pretrained(network: nn.Module, config: ModelConfig) -> None:
    """Load the weights of pretrained encoders, unless the network has no memory for them."""
    if any(each.is_meta for each in network.parameters()):
        return
    folders = {key: name for key, name in config.encoders if key in dict(config.pretrained)}
    for key in dict.fromkeys(config.encoder_of(name) for name in config.modalities):
        name = folders.get(key, folders.get(modality_of(key)))
        for each in network.encoder(key).modules():  # type: ignore[operator]
            if name and isinstance(each, PretrainedEncoder):
                each.load_weights(folder_of(name))


def part(parameter: str) -> str:
    """Return the part that a parameter of a FusionNetwork or a LateNetwork belongs to."""
    names = parameter.split(".")
    if "encoders" in names[:3]:  # late fusion: networks.image.encoders.image
        return names[names.index("encoders") + 1]
    return "head" if {"readout", "readouts", "mixture"} & set(names) else "fusion"


def take(network: nn.Module, given: Mapping[str, Tensor]) -> frozenset[str]:
    """Copy every tensor of `given` that matches the network in name and shape; return their names.

    Raises:
        ConfigError: no tensor matches.
    """
    own = network.state_dict()
    taken = frozenset(
        name for name, each in given.items() if name in own and own[name].shape == each.shape
    )
    if not taken:
        raise ConfigError(
            "no weight of the other run matches this network in name and shape; choose a run with "
            "the same width, hidden size and modalities, or omit init_from"
        )
    with torch.no_grad():
        for name in taken:
            own[name].copy_(given[name])
    return taken


def freeze(
    network: nn.Module, parts: Collection[str], taken: Collection[str] | None = None
) -> list[str]:
    """Freeze parts of the network; return the names of their parameters.

    Args:
        taken: the names of the parameters that came from another network, if any. Then only these
            are frozen: the part's other parameters, such as the projection of a new modality, are
            still untrained.

    Raises:
        ConfigError: a part is unknown or has nothing to freeze, or no parameter is left to train.
    """
    parameters = dict(network.named_parameters())
    own = {part(name) for name in parameters}
    known = sorted(own | {modality_of(each) for each in own})  # a modality: all of its encoders
    frozen: list[str] = []
    for each in dict.fromkeys(parts):
        if each not in known:
            raise ConfigError(f"freeze: unknown part {each!r}; the parts are {', '.join(known)}")
        chosen = [
            name
            for name in parameters
            if each in (part(name), modality_of(part(name))) and (taken is None or name in taken)
        ]
        if not chosen:
            raise ConfigError(
                f"freeze: no weights of {each!r} come from the other run, so it would stay at its "
                "random initial values; omit it"
            )
        frozen += chosen
    if len(set(frozen)) == len(parameters):
        raise ConfigError("freeze: no parameter is left to train; omit a part")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def evaluate_frozen(network: nn.Module) -> None:
    """Put frozen modules into evaluation mode: their dropout and batch statistics stay out."""
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(each.requires_grad for each in parameters):
            module.eval()


def fits_mixture(network: nn.Module, parts: Collection[str], taken: Collection[str] | None) -> bool:
    """Whether the weights of a network's logits are fitted: not if they are frozen with the head.

    Args:
        parts, taken: as those of `freeze`.
    """
    is_frozen = "head" in parts and (taken is None or "mixture" in taken)
    return len(network.get_buffer("mixture")) > 1 and not is_frozen


def report(network: nn.Module, taken: Collection[str], given: Collection[str]) -> str:
    """Summarise which tensors were taken and which were not, by part."""
    own = network.state_dict()

    def parts(names: Collection[str]) -> str:
        return ", ".join(sorted({part(name) for name in names})) or "nothing"

    numbers = sum(own[name].numel() for name in taken)
    fresh = [name for name in own if name not in taken]
    left = [name for name in given if name not in taken]
    return (
        f"took {plural(len(taken), 'tensor')} with {numbers:,} values ({parts(taken)}); "
        f"{len(fresh)} are newly initialised ({parts(fresh)}); "
        f"{len(left)} of the other run are unused ({parts(left)})"
    )
