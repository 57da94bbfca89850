"""The data loaders of a training."""

from __future__ import annotations

from collections.abc import Mapping

from accelerate import Accelerator

from ..config.schema import BATCH_SIZE
from ..data.dataset import FusionDataset
from ..data.loader import BatchLoader
from .sampler import EvaluationSampler, StepSampler


def make_loaders(
    datasets: Mapping[str, FusionDataset],
    steps: StepSampler,
    accelerator: Accelerator,
    num_workers: int,
) -> tuple[dict[str, BatchLoader], dict[str, EvaluationSampler]]:
    """Create the loader of each split, and the samplers of the splits other than train.

    Args:
        steps: the sampler of train.
        num_workers: the number of processes that decode files.
    """
    samplers = {
        split: EvaluationSampler(
            len(rows), BATCH_SIZE, accelerator.num_processes, accelerator.process_index
        )
        for split, rows in datasets.items()
        if split != "train"
    }
    loaders = {
        split: BatchLoader(
            rows,
            steps if split == "train" else samplers[split],
            num_workers,
            pin_memory=accelerator.device.type == "cuda",
            persistent=split == "train",
        )
        for split, rows in datasets.items()
    }
    return loaders, samplers
