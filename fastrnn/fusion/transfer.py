"""What one network takes from another, and what of it stays as it is.

A network's parts are its encoders, by their modality's name; `fusion`, which is what joins them and
the recurrent layer; and `head`, the readout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .words import plural


def part(parameter: str) -> str:
    """The part that a parameter of a FusionNetwork or a LateNetwork belongs to, by its name."""
    names = parameter.split(".")
    if "encoders" in names[:3]:  # late fusion holds whole networks: models.image.encoders.image
        return names[names.index("encoders") + 1]
    return "head" if "readout" in names else "fusion"


def take(network: nn.Module, given: Mapping[str, Tensor]) -> frozenset[str]:
    """Copy every tensor of `given` whose name and shape the network knows; returns their names.

    Raises:
        ConfigError: none agrees.
    """
    own = network.state_dict()
    taken = frozenset(
        name for name, each in given.items() if name in own and own[name].shape == each.shape
    )
    if not taken:
        raise ConfigError(
            "none of the weights to start from has a name and a shape of this network's; choose "
            "a run of the same width, hidden size and modalities, or leave init_from out"
        )
    with torch.no_grad():
        for name in taken:
            own[name].copy_(given[name])
    return taken


def freeze(
    network: nn.Module, parts: Collection[str], taken: Collection[str] | None = None
) -> list[str]:
    """Exempt parts from training; returns the names of their parameters.

    Args:
        taken: the names that came from another network, if any did. Then only these are frozen:
            what the part has beside them, such as the projection of a new modality, has learned
            nothing yet.

    Raises:
        ConfigError: a part is unknown, has nothing to freeze, or nothing is left to be trained.
    """
    parameters = dict(network.named_parameters())
    known = sorted({part(name) for name in parameters})
    frozen: list[str] = []
    for each in dict.fromkeys(parts):
        if each not in known:
            raise ConfigError(f"freeze: no part {each!r}; the parts are {', '.join(known)}")
        chosen = [
            name for name in parameters if part(name) == each and (taken is None or name in taken)
        ]
        if not chosen:
            raise ConfigError(
                f"freeze: nothing of {each!r} was taken from the other run, so it would stay as "
                "it was made at random; leave it out"
            )
        frozen += chosen
    if len(frozen) == len(parameters):
        raise ConfigError("freeze: nothing is left to be trained; leave a part out")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def report(network: nn.Module, taken: Collection[str], given: Collection[str]) -> str:
    """What was taken and what was not, by part."""
    own = network.state_dict()

    def parts(names: Collection[str]) -> str:
        return ", ".join(sorted({part(name) for name in names})) or "nothing"

    numbers = sum(own[name].numel() for name in taken)
    fresh = [name for name in own if name not in taken]
    left = [name for name in given if name not in taken]
    return (
        f"taken {plural(len(taken), 'tensor')} of {numbers:,} numbers ({parts(taken)}); "
        f"{len(fresh)} start afresh ({parts(fresh)}); "
        f"{len(left)} of the other run's are left ({parts(left)})"
    )
