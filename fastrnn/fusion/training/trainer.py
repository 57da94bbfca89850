"""Train one network with Adam, a one-cycle learning rate and gradient clipping.

Accelerate selects the device and, under torchrun, sets up the processes; the training loop is our
own. The rows of a step are divided among accumulated batches and processes, and the loss of each
part is weighted by its share. The gradient is therefore that of the step's mean loss, for any
division.

The seed and the epoch determine the order of an epoch's rows. The seed, the epoch, the step and the
process determine torch's random numbers in a step. A run that is resumed from any step therefore
gives the same result as an uninterrupted run.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, send_to_device
from torch import Tensor, nn

from ..checkpoint import Weights, weights
from ..config.schema import ModelConfig, TrainConfig
from ..data.processor import Batch, Examples
from ..errors import ConfigError
from ..models.network import build
from ..strings import plural
from ..tasks import objectives
from . import meter, transfer
from .loggers import Log
from .meter import Meter, Score
from .sampler import deal, seed_torch, shuffled
from .state import State, moments, restore_optimizer

_EVALUATION_BATCH = 256  # rows; larger than in training, since no gradients are stored
_ASK = 16  # steps between agreements of several processes on saving, which synchronise them

Scores = dict[str, Score]
Save = Callable[[State], None]


@dataclass
class Trained:
    """A trained network and its training history."""

    name: str
    model: nn.Module  # with the weights of its best epoch
    epochs: list[Scores] = field(default_factory=list)  # train and val scores of each epoch
    final: Scores = field(default_factory=dict)  # val of the best epoch, and test if there is one
    seconds: float = 0.0  # time of training and validation
    last: Weights | None = None  # the weights after the last epoch, if another was the best

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(each.numel() for each in self.model.parameters())

    @property
    def judged(self) -> Score:
        """The score on test rows if there are any, else on val rows."""
        return self.final.get("test", self.final["val"])

    @property
    def best(self) -> int:
        """The epoch with the highest val score; ties go to the lowest loss, then to the first."""
        return best_epoch(self.epochs)


def best_epoch(epochs: Sequence[Scores]) -> int:
    """Return the best epoch, as `Trained.best`; 0 before the first epoch."""
    best, found = None, 0
    for number, scores in enumerate(epochs, 1):
        if scores["val"].better(best):
            best, found = scores["val"], number
    return found


def find_devices(precision: str = "fp32") -> Accelerator:
    """Set up the device and the processes that torchrun started.

    Raises:
        ConfigError: the device does not support this precision.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    # Otherwise, accelerate treats several processes without GPUs as separate single processes.
    accelerator = Accelerator(cpu=not alone and not torch.cuda.is_available())
    kind = accelerator.device.type
    if precision == "fp16" and kind != "cuda":
        raise ConfigError(f"fp16 needs a CUDA GPU, but the device is {kind}; choose bf16 or fp32")
    if precision == "bf16" and kind == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("this GPU does not support bf16; choose fp16 or fp32")
    return accelerator


def train(
    name: str,
    config: ModelConfig,
    training: TrainConfig,
    examples: Mapping[str, Examples],
    log: Log,
    *,
    given: Mapping[str, Tensor] | None = None,
    start: State | None = None,
    epochs: Sequence[Scores] = (),
    save: Save | None = None,
) -> Trained:
    """Build and train a network on examples["train"], validated on examples["val"].

    The same seed gives the same network on the same machine with the same number of threads and
    processes.

    Args:
        name: the name of the network in the log.
        config: the network.
        training: the options of the training.
        examples: split name -> decoded rows; "test" is optional.
        log: receives the metrics and the progress.
        given: weights to start from, where name and shape match (see transfer.py).
        start: the state of an interrupted training of this network.
        epochs: the scores of the epochs before `start`.
        save: called with a State after every epoch and every `save_every` seconds. Every process
            calls it with its own State.

    Raises:
        ConfigError: the precision, `freeze`, `balance` or `given` does not fit the network, the
            labels or the device; or `start` has another number of processes.
    """
    loop = _Loop(name, config, training, examples, log, given, save)
    loop.result.epochs.extend(epochs)
    if start is not None:
        try:
            loop.restore(start)
        except (LookupError, RuntimeError, TypeError) as error:
            raise ConfigError(
                f"the checkpoint does not fit this network ({error}); start a new run"
            ) from error
    return loop.run()


def prepare(
    config: ModelConfig, training: TrainConfig, given: Mapping[str, Tensor] | None = None
) -> tuple[nn.Module, frozenset[str] | None]:
    """Build a network for training; return it and the names of the weights it took from `given`.

    Raises:
        ConfigError: the options contradict each other, or do not fit `given`.
    """
    if training.balance and config.problem_type == "regression":
        raise ConfigError("balance does not apply to regression; omit it")
    network = build(config)
    taken = None if given is None else transfer.take(network, given)
    transfer.freeze(network, training.freeze, taken)
    return network, taken


class _Loop:
    """The training loop and its state."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        training: TrainConfig,
        examples: Mapping[str, Examples],
        log: Log,
        given: Mapping[str, Tensor] | None,
        save: Save | None,
    ) -> None:
        self.config, self.training, self.examples = config, training, examples
        self.log, self.save = log, save
        self.accelerator = find_devices(training.precision)
        self.device = self.accelerator.device
        seed_torch(training.seed)
        network, taken = prepare(config, training, given)
        if given is not None and taken is not None:
            log.say(f"{name}: {transfer.report(network, taken, given)}")
        # With several processes, the model wraps the network and averages its gradients.
        self.model = self.accelerator.prepare_model(network)
        self.network: nn.Module = self.accelerator.unwrap_model(self.model)
        self.rows = len(examples["train"])
        self.steps = math.ceil(self.rows / training.batch_size)
        learned = [each for each in self.network.parameters() if each.requires_grad]
        self.optimizer = torch.optim.Adam(learned, training.learning_rate)
        self.schedule = _schedule(self.optimizer, training, self.steps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=training.precision == "fp16")
        self.weight = _balance(config, training, examples["train"])
        self.masses = {
            split: meter.masses(config.problem_type, each.labels, self.weight)
            for split, each in examples.items()
        }
        if self.weight is not None:
            self.weight = self.weight.to(self.device)
        self.meter = self._meter()
        self.best: Weights = {}
        self.result = Trained(name, self.network)
        self.epoch, self.step = 1, 0  # position of the next step
        self.begun = self.saved = time.perf_counter()

    def run(self) -> Trained:
        """Train to the last epoch, or until patience runs out."""
        result, training, name = self.result, self.training, self.result.name
        done = (self.epoch - 1) * self.rows + min(self.step * training.batch_size, self.rows)
        self.log.begin(name, training.epochs, self.rows, done)
        while self.epoch <= training.epochs and not self._out_of_patience():
            self._train_epoch()
            scores = {"train": self.meter.score(), "val": self._evaluate("val")}
            if scores["val"].better(self._best_score()):
                self.best = weights(self.network)
            result.epochs.append(scores)
            result.seconds = time.perf_counter() - self.begun
            for split, score in scores.items():
                self._record(self.epoch, split, score)
            self._tell(scores)
            self.epoch, self.step, self.meter = self.epoch + 1, 0, self._meter()
            self._save()
        if self.epoch <= training.epochs:
            self.log.say(
                f"{name}: no improvement for {plural(training.patience, 'epoch')}; stopped"
            )
        if result.best < len(result.epochs):
            result.last = weights(self.network)
            self.network.load_state_dict(self.best)
        result.final["val"] = result.epochs[result.best - 1]["val"]
        if "test" in self.examples:
            result.final["test"] = self._evaluate("test")
            self._record(result.best, "test", result.final["test"])
        return result

    def _train_epoch(self) -> None:
        self.model.train()
        order = shuffled(self.rows, self.training.seed, self.epoch)
        for step in range(self.step, self.steps):
            rows = order[step * self.training.batch_size : (step + 1) * self.training.batch_size]
            self._train_step(rows)
            self.step = step + 1
            self.log.advance(len(rows))
            if self.step < self.steps and self._time_to_save():
                self._save()

    def _train_step(self, rows: Sequence[int]) -> None:
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        seed_torch(self.training.seed, self.epoch, self.step, process)
        total = float(self.masses["train"][rows].sum())
        parts = deal(rows, self.training.gradient_accumulation_steps * processes)[
            process::processes
        ]
        for number, part in enumerate(parts, 1):
            # Every process runs every backward; without rows, it uses one row with weight 0.
            batch, mass = self._batch("train", part or rows[:1])
            mass = mass if part else 0.0
            last = number == len(parts)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                logits = self._logits(self.model, batch)
                if mass:
                    mean = self._loss(logits, batch["label"])
                    # The gradients of processes are averaged, but must be summed.
                    loss = mean * (mass / total * processes)
                    self.meter.add(mean.detach(), mass, logits.detach(), batch["label"])
                else:
                    loss = logits.sum() * 0
                self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.training.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.schedule is not None:
            self.schedule.step()

    @torch.no_grad()
    def _evaluate(self, split: str) -> Score:
        found = self._meter()
        self.network.eval()
        for part in self._own(split):
            batch, mass = self._batch(split, part)
            if mass:
                logits = self._logits(self.network, batch)
                found.add(self._loss(logits, batch["label"]), mass, logits, batch["label"])
        return found.score()

    def _own(self, split: str) -> Iterator[Sequence[int]]:
        """Yield this process's rows of a split, in batches."""
        shares = deal(range(len(self.examples[split])), self.accelerator.num_processes)
        share = shares[self.accelerator.process_index]
        for first in range(0, len(share), _EVALUATION_BATCH):
            yield share[first : first + _EVALUATION_BATCH]

    def _batch(self, split: str, rows: Sequence[int]) -> tuple[Batch, float]:
        batch = self.examples[split].collate(rows)
        return send_to_device(batch, self.device), float(self.masses[split][list(rows)].sum())

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = kinds.get(self.training.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            logits = model(batch)
        return logits if dtype is None else logits.float()

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        if self.weight is None:
            return objectives.loss(self.config.problem_type, logits, label)
        return objectives.loss(
            self.config.problem_type, logits, label, self.weight.to(logits.dtype)
        )

    def _meter(self) -> Meter:
        return Meter(self.config.problem_type, self.config.outputs, self.device)

    def _best_score(self) -> Score | None:
        epochs = self.result.epochs
        return epochs[self.result.best - 1]["val"] if epochs else None

    def _out_of_patience(self) -> bool:
        patience, epochs = self.training.patience, self.result.epochs
        return bool(patience) and len(epochs) - self.result.best >= patience

    def _record(self, epoch: int, split: str, score: Score) -> None:
        self.log.record(
            model=self.result.name,
            epoch=epoch,
            split=split,
            **{"loss": score.loss, objectives.SCORES[self.config.problem_type]: score.score},
            seconds=round(self.result.seconds, 3),
        )

    def _tell(self, scores: Scores) -> None:
        called = objectives.SCORES[self.config.problem_type]
        note = f"train loss {scores['train'].loss:.3f}, val {called} {scores['val'].score:.3f}"
        self.log.epoch(self.epoch, note)

    def _time_to_save(self) -> bool:
        if self.save is None:
            return False
        due = time.perf_counter() - self.saved >= self.training.save_every
        if self.accelerator.num_processes == 1:
            return due
        if self.step % _ASK:
            return False
        return bool(broadcast(torch.tensor([due], dtype=torch.int, device=self.device)))

    def _save(self) -> None:
        if self.save is None:
            return
        accelerator = self.accelerator
        tensors = {f"network.{name}": each for name, each in self.network.state_dict().items()}
        tensors |= {f"best.{name}": each for name, each in self.best.items()}
        tensors |= moments(self.optimizer)
        for name, each in self.meter.state().items():
            tensors[f"tally.{name}"] = accelerator.gather(each[None])
        state = State(
            metrics=self.log.size(),
            model=self.result.name,
            epoch=self.epoch,
            step=self.step,
            seconds=time.perf_counter() - self.begun,
            processes=accelerator.num_processes,
            groups=self.optimizer.state_dict()["param_groups"],
            schedule={} if self.schedule is None else self.schedule.state_dict(),
            scaler=self.scaler.state_dict(),
            tensors=tensors,
        )
        self.save(state)
        self.saved = time.perf_counter()

    def restore(self, state: State) -> None:
        """Restore the state of an interrupted training."""
        accelerator = self.accelerator
        if state.processes != accelerator.num_processes:
            raise ConfigError(
                f"processes: the run started with {state.processes}, but there are now "
                f"{accelerator.num_processes}; resume with the same number"
            )
        self.network.load_state_dict(state.below("network"))
        self.best = state.below("best")
        restore_optimizer(self.optimizer, state)
        if self.schedule is not None:
            self.schedule.load_state_dict(state.schedule)
        self.scaler.load_state_dict(state.scaler)
        if state.step:
            counted = state.below("tally")
            self.meter.restore({k: v[accelerator.process_index] for k, v in counted.items()})
        self.epoch, self.step = state.epoch, state.step
        self.begun = time.perf_counter() - state.seconds
        self.result.seconds = state.seconds


def _schedule(
    optimizer: torch.optim.Optimizer, training: TrainConfig, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR | None:
    if training.schedule == "constant":
        return None
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.epochs * steps
    )


def _balance(config: ModelConfig, training: TrainConfig, examples: Examples) -> Tensor | None:
    if not training.balance:
        return None
    return meter.weight(config.problem_type, examples, config.outputs)
