"""The providers: fastrnn with each backend, and the baselines that it is compared with.

A baseline that needs a package is available if the package can be imported.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..cells import CELLS
from ..groups import GROUPS
from ..shapes import Case
from .base import Provider
from .flash_rnn import FlashRnn
from .jax_scan import JaxScan
from .loops import CompiledLoop, EagerLoop
from .nn_rnn import Flattened, NnRnn
from .onnx_runtime import OnnxRuntime
from .openvino_model import OpenVino
from .ours import Fastrnn

__all__ = ["LEVELS", "Provider", "by_name", "select", "select_for"]

#: How many baselines a shape is compared with; each level includes those before it.
LEVELS = ("few", "most", "all")

_PROVIDERS: dict[str, tuple[Provider, ...]] = {
    "few": (
        *(Fastrnn(backend) for backend in ("auto", "cuda", "triton")),
        *(NnRnn(cell) for cell in CELLS),
        *(Flattened(cell) for cell in CELLS),
    ),
    "most": (
        *(EagerLoop(), OnnxRuntime(), OpenVino(), JaxScan()),
        *(FlashRnn("cuda_fused"), FlashRnn("cuda")),
    ),
    "all": (Fastrnn("cpu"), Fastrnn("reference"), CompiledLoop()),
}


def by_name(names: Sequence[str]) -> list[Provider]:
    """Return the providers with these names."""
    every = {provider.name: provider for level in LEVELS for provider in _PROVIDERS[level]}
    return [every[name] for name in names]


def select(level: str, device: str) -> tuple[list[Provider], dict[str, str]]:
    """Return the available providers of a level on a type of device, and why others are not."""
    known = [p for name in LEVELS[: LEVELS.index(level) + 1] for p in _PROVIDERS[name]]
    wanted = [provider for provider in known if device in provider.devices]
    reasons = {provider.name: provider.unavailable_reason(device) for provider in wanted}
    unavailable = {name: reason for name, reason in reasons.items() if reason is not None}
    return [provider for provider in wanted if provider.name not in unavailable], unavailable


def select_for(case: Case, level: str, device: str) -> tuple[list[Provider], dict[str, str]]:
    """Return the providers that compute a case, and why others are unavailable on this machine.

    Args:
        level: the highest level to use; the group of the case may have a lower one.
    """
    level = min(GROUPS[case.group].baselines, level, key=LEVELS.index)
    available, unavailable = select(level, device)
    supporting = [p for p in available if p.unsupported_reason(case, device) is None]
    return supporting, unavailable
