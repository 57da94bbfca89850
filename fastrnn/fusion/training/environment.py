"""What the training of a network starts from, and what the trainings of a run have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from accelerate import Accelerator
from torch import Tensor

from ..data.dataset import FusionDataset
from .callbacks import Callback
from .loggers import Log
from .result import Scores
from .state import State


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Attributes:
        given: weights to start from, where name and shape match (see transfer.py).
        state: the state of an interrupted training of this network.
        epochs: the scores of the epochs before `state`.
    """

    given: Mapping[str, Tensor] | None = None
    state: State | None = None
    epochs: Sequence[Scores] = ()


@dataclass(frozen=True)
class Environment:
    """What the trainings of a run have in common.

    Attributes:
        datasets: split name -> rows; "test" is optional.
        accelerator: the device and the processes; see devices.make_accelerator.
        log: receives the metrics and the progress.
        num_workers: number of processes that decode files.
        callbacks: called after each epoch.
        save: called with a State after every epoch and every `save_every` seconds. Every process
            calls it with its own State.
    """

    datasets: Mapping[str, FusionDataset]
    accelerator: Accelerator
    log: Log
    num_workers: int = 0
    callbacks: Sequence[Callback] = ()
    save: Callable[[State], None] | None = None
