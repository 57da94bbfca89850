"""Read and restore the whole state of a model and its optimizer, also if FSDP shards them.

Without sharding, these are the state dicts of the network and its optimizer. With it, torch gathers
the tensors of all processes, which must call these functions together; each gets the whole state.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from ..checkpoint import Weights, weights
from ..config.schema import ModelConfig
from ..errors import ConfigError
from ..models.network import build
from .state import State, moments, restore_optimizer


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether a process has only a part of the weights."""
    return accelerator.distributed_type == DistributedType.FSDP


def check_strategy(accelerator: Accelerator) -> None:
    """Reject a strategy whose engine replaces the training loop.

    Raises:
        ConfigError: the processes were launched with DeepSpeed or Megatron-LM.
    """
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigError(
            f"{accelerator.distributed_type.value} is not supported; launch with DDP or FSDP"
        )


def prepare_for(accelerator: Accelerator, network: nn.Module) -> nn.Module:
    """Give the weights the layout that the strategy needs."""
    if is_sharded(accelerator):  # FSDP has no channels_last
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network


def full_weights(accelerator: Accelerator, model: nn.Module) -> Weights:
    """Return a copy of all weights on the CPU."""
    if not is_sharded(accelerator):
        return weights(accelerator.unwrap_model(model))
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    _reshard(model)
    found: Any = get_model_state_dict(model, options=_options())
    return {name: each.detach().cpu().clone() for name, each in found.items()}


def load_weights(accelerator: Accelerator, model: nn.Module, values: Weights) -> None:
    """Load all weights into the model."""
    if not is_sharded(accelerator):
        accelerator.unwrap_model(model).load_state_dict(values)
        return
    from torch.distributed.checkpoint.state_dict import set_model_state_dict

    _reshard(model)
    set_model_state_dict(model, {**values}, options=_options())


def whole_network(
    accelerator: Accelerator, model: nn.Module, config: ModelConfig, values: Weights
) -> nn.Module:
    """Return the network with all weights and without wrappers, on the device."""
    if not is_sharded(accelerator):
        return accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    network = build(config)
    network.load_state_dict(values)
    return network.to(accelerator.device)


def optimizer_state(
    accelerator: Accelerator, model: nn.Module, optimizer: Any
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return the optimizer's tensors, named as in `State.tensors`, and its parameter groups."""
    if not is_sharded(accelerator):
        return moments(optimizer.state_dict()["state"]), optimizer.state_dict()["param_groups"]
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    _reshard(model)
    found: Any = get_optimizer_state_dict(model, optimizer.optimizer, options=_options())
    return moments(found["state"]), found["param_groups"]


def load_optimizer(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, state: State
) -> None:
    """Restore what `optimizer_state` returned."""
    if not is_sharded(accelerator):
        restore_optimizer(optimizer, state)
        return
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    _reshard(model)
    values: dict[str, dict[str, Tensor]] = {}
    for name, value in state.below("optimizer").items():
        parameter, _, key = name.rpartition(".")
        values.setdefault(parameter, {})[key] = value
    whole: Any = {"state": values, "param_groups": state.groups}
    set_optimizer_state_dict(model, optimizer.optimizer, whole, options=_options())


def _reshard(model: nn.Module) -> None:
    """Free the gathered weights: after a forward pass without a backward one, FSDP 2 keeps them."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.reshard()


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True)
