"""The device, the processes and the precision of a fit, as accelerate sets them up."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object

from ..errors import ConfigError
from .sharding import check_strategy

_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def resolve_precision(precision: str) -> str:
    """Return the precision that "auto" means here: bf16 on a GPU that is fast at it, else fp32.

    GPUs since compute capability 8 (Ampere) have tensor cores for bf16.
    """
    if precision != "auto":
        return precision
    fast = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    return "bf16" if fast else "fp32"


def make_accelerator(
    precision: str = "auto", report_to: Sequence[str] = (), folder: Path | None = None
) -> Accelerator:
    """Set up the device and the processes that torchrun or `accelerate launch` started.

    Args:
        precision: fp32, bf16, fp16 or auto; see `resolve_precision`.
        report_to: trackers of the metrics: tensorboard, wandb, mlflow or another of accelerate's.
        folder: where trackers write.

    Raises:
        ConfigError: the device does not support this precision, or a tracker is not installed.
    """
    for name in report_to:
        if name not in map(str, get_available_trackers()):
            raise ConfigError(
                f"the tracker {name} is unknown or not installed; install it with pip, or omit it "
                "from report_to: metrics.jsonl has the same metrics"
            )
    precision = resolve_precision(precision)
    wanted = _PRECISIONS[precision]
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != wanted:
        # The state of an earlier fit in this process, whose precision cannot be changed otherwise.
        AcceleratorState._reset_state()
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    accelerator = Accelerator(
        # Otherwise, accelerate treats several processes without GPUs as separate single processes.
        cpu=not alone and not torch.cuda.is_available(),
        mixed_precision=wanted,
        step_scheduler_with_optimizer=False,  # it would step once for each process
        log_with=list(report_to) or None,
        project_dir=folder,
    )
    check_strategy(accelerator)
    # A configuration of `accelerate launch` may set it; the losses are divided by the trainer.
    accelerator.gradient_accumulation_steps = 1
    kind = accelerator.device.type
    if precision == "fp16" and kind != "cuda":
        raise ConfigError(f"fp16 needs a CUDA GPU, but the device is {kind}; choose bf16 or fp32")
    if precision == "bf16" and kind == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("this GPU does not support bf16; choose fp16 or fp32")
    return accelerator


def several_hosts() -> bool:
    """Whether the processes are on several hosts, according to torchrun's or Ray's variables."""
    processes = os.environ.get("WORLD_SIZE", "1")
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes)) < int(processes)


def check_shared(accelerator: Accelerator, folder: Path, seen: Hashable) -> None:
    """Check that all processes have seen the same state of a run's folder.

    Raises:
        ConfigError: they have not. Otherwise, one process would resume what another begins.
    """
    if accelerator.num_processes > 1 and len(set(gather_object([seen]))) > 1:
        raise ConfigError(
            f"{folder}: the processes see different files in this folder; give a folder on a disk "
            "that all hosts share"
        )
