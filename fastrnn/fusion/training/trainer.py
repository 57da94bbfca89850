"""Train one network with AdamW, a schedule of the learning rate and gradient clipping.

Accelerate sets up the device, the processes, the precision and the backward pass; the loop is our
own. The rows of a step are divided among accumulated batches and processes, and the loss of each
part is weighted by its share. The gradient is therefore that of the step's mean loss, for any
division.

The seed and the epoch determine the order of an epoch's rows. The seed, the epoch, the step and the
process determine torch's random numbers in a step. A run that is resumed from any step therefore
gives the same result as an uninterrupted run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn

from ..batch import Batch, to_device
from ..checkpoint import Weights
from ..config.schema import ModelConfig, TrainConfig
from ..errors import ConfigError
from ..models.network import mix
from ..strings import plural
from . import sharding, transfer
from .augmentation import Augmentation
from .environment import Environment, Start
from .loaders import make_loaders
from .meter import Meter, Score
from .mixture import Outputs, fit_mixture
from .objective import Objective
from .optimization import make_optimizer
from .result import Scores, Trained
from .sampler import StepSampler, seed_torch
from .state import State

_ASK = 16  # steps between agreements of several processes on saving, which synchronise them


def train(
    name: str,
    config: ModelConfig,
    training: TrainConfig,
    environment: Environment,
    start: Start | None = None,
) -> Trained:
    """Build and train a network on the rows of the split train, validated on those of val.

    The same seed gives the same network on the same machine with the same number of threads and
    processes.

    Args:
        name: the name of the network in the log.
        config: the network.
        training: the options of the training.
        environment: the rows, the device and the log.
        start: weights or a state to start from.

    Raises:
        ConfigError: `freeze`, the options of the loss or `start` do not fit the network or the
            labels; or the state to start from has another number of processes.
        DataError: a file cannot be used; the message names the row and the file.
    """
    start = start or Start()
    trainer = Trainer(name, config, training, environment, start.given)
    trainer.result.epochs.extend(start.epochs)
    if start.state is not None:
        try:
            trainer.restore(start.state)
        except ConfigError:
            raise
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the checkpoint does not fit this network ({error}); start a new run"
            ) from error
    return trainer.run()


class Trainer:
    """The training loop and its state."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        training: TrainConfig,
        environment: Environment,
        given: Mapping[str, Tensor] | None,
    ) -> None:
        self.config, self.training, self.environment = config, training, environment
        self.accelerator, self.log = environment.accelerator, environment.log
        self.device = self.accelerator.device
        self.datasets = environment.datasets
        self.task = self.datasets["train"].processor.task
        seed_torch(training.seed)
        network, taken = transfer.prepare(config, training, given)
        if given is not None and taken is not None:
            self.log.say(f"{name}: {transfer.report(network, taken, given)}")
        self.fits_mixture = transfer.fits_mixture(network, training.freeze, taken)
        self._prepare(network)
        self.objective = Objective(self.datasets, training, self.device)
        self.augmentation = Augmentation.of(training, config, self.datasets["train"].processor)
        self.meter = Meter(self.task)
        self.best: Weights = {}
        self.result = Trained(name, network)
        self.epoch, self.step = 1, 0  # position of the next step
        self.stopped = False  # by a callback
        self.begun = self.saved = time.perf_counter()

    def _prepare(self, network: nn.Module) -> None:
        """Create the optimizer and the loaders, and let accelerate wrap them."""
        training, accelerator = self.training, self.accelerator
        rows = len(self.datasets["train"])
        self.sampler = StepSampler(
            rows,
            training.batch_size,
            training.gradient_accumulation_steps,
            accelerator.num_processes,
            accelerator.process_index,
            training.seed,
        )
        sharding.prepare_for(accelerator, network)
        optimizer, self.schedule = make_optimizer(network, training, self.sampler.steps)
        # With several processes, the model wraps the network and averages its gradients.
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        if accelerator.scaler is not None:  # do not start from the scale of another network
            fresh = torch.amp.GradScaler(self.device.type).state_dict()
            accelerator.scaler.load_state_dict(fresh)
        self.loaders, self.evaluations = make_loaders(
            self.datasets, self.sampler, accelerator, self.environment.num_workers
        )

    def run(self) -> Trained:
        """Train to the last epoch, or until patience runs out or a callback stops it."""
        result, training, name = self.result, self.training, self.result.name
        rows = self.sampler.rows
        done = (self.epoch - 1) * rows + min(self.step * training.batch_size, rows)
        self.log.begin(name, training.epochs, rows, done)
        while self.epoch <= training.epochs and not self._ended():
            self._train_epoch()
            scores = {"train": self.meter.score(self.accelerator), "val": self._evaluate("val")}
            if scores["val"].better(self._best_score()):
                self.best = self._weights()
            result.epochs.append(scores)
            result.seconds = time.perf_counter() - self.begun
            self._report(scores)
            self.stopped = self._call(scores)
            self.epoch, self.step, self.meter = self.epoch + 1, 0, Meter(self.task)
            self._save()
        if self.stopped:
            self.log.say(f"{name}: stopped by a callback")
        elif self.epoch <= training.epochs:
            waited = plural(training.patience, "epoch")
            self.log.say(f"{name}: no improvement for {waited}; stopped")
        self._finish()
        return result

    def _finish(self) -> None:
        """Take the weights of the best epoch, and evaluate them on test."""
        result, accelerator = self.result, self.accelerator
        if result.best < len(result.epochs):
            result.last = self._weights()
            sharding.load_weights(accelerator, self.model, self.best)
        result.final["val"] = result.epochs[result.best - 1]["val"]
        if "test" in self.datasets:
            result.final["test"] = self._evaluate("test")
            self._record(result.best, "test", result.final["test"])
        result.model = sharding.whole_network(accelerator, self.model, self.config, self.best)
        accelerator.free_memory()

    def _train_epoch(self) -> None:
        self.model.train()
        transfer.evaluate_frozen(self.model)
        self.sampler.epoch, self.sampler.start = self.epoch, self.step
        batches = iter(self.loaders["train"])
        for rows, parts in self.sampler.plan():
            self._train_step(rows, parts, batches)
            self.step += 1
            self.log.advance(len(rows))
            if self.step < self.sampler.steps and self._time_to_save():
                self._save()
        for _ in batches:  # lets the workers finish the pass
            raise RuntimeError("the loader has more batches than the sampler")

    def _train_step(
        self, rows: Sequence[int], parts: Sequence[Sequence[int]], batches: Iterator[Batch]
    ) -> None:
        accelerator, masses = self.accelerator, self.objective.masses["train"]
        place = (self.training.seed, self.epoch, self.step)
        seed_torch(*place, accelerator.process_index)
        drawn = self.augmentation.draw(len(rows), *place)
        total = float(masses[rows].sum())
        for number, part in enumerate(parts, 1):
            # Every process runs every backward; without rows, it uses one row with weight 0.
            mass = float(masses[list(part)].sum()) if part else 0.0
            batch = to_device(next(batches), self.device)
            first = rows.index(part[0]) if part else 0
            batch = self.augmentation(batch, drawn[first : first + max(1, len(part))])
            last = number == len(parts)
            with nullcontext() if last else accelerator.no_sync(self.model):
                found = self.model(batch, parts=True)
                # The fusion learns what the mean of the readouts of single inputs does not explain.
                alone = found[1:]
                logits = found[0] + alone.detach().sum(0) / max(1, len(alone))
                if mass:
                    mean = self.objective(logits, batch["label"], smooth=True)
                    own = [self.objective(each, batch["label"], smooth=True) for each in alone]
                    # The gradients of processes are averaged, but must be summed.
                    loss = sum(own, mean) * (mass / total * accelerator.num_processes)
                    self.meter.add(mean, mass, logits.detach(), batch["label"])
                else:
                    loss = found.sum() * 0
                    # Every process needs sums, also one that never gets a row.
                    count = len(part)
                    self.meter.add(loss, 0.0, logits[:count].detach(), batch["label"][:count])
                accelerator.backward(loss)
        accelerator.clip_grad_norm_(self.model.parameters(), self.training.max_grad_norm)
        # Without a scaler, accelerate's wrapper only looks for other packages, which takes 0.3 ms.
        unscaled = accelerator.scaler is None
        (self.optimizer.optimizer if unscaled else self.optimizer).step()
        self.model.zero_grad()
        if self.schedule is not None:
            self.schedule.step()

    @torch.no_grad()
    def _evaluate(self, split: str) -> Score:
        """Return the score on a split. On val, the mixture of the logits is fitted first."""
        found, outputs = Meter(self.task), self._outputs(split)
        network = self.accelerator.unwrap_model(self.model)
        if split == "val" and self.fits_mixture:
            longest = int(self.datasets[split].steps.max())
            outputs = fit_mixture(network, outputs, longest, self.objective, self.accelerator)
        for mass, parts, label in outputs:
            logits = mix(network.mixture, parts)
            loss = self.objective(logits, label, smooth=False) if mass else logits.sum() * 0
            found.add(loss, mass, logits, label)
        return found.score(self.accelerator)

    def _outputs(self, split: str) -> Iterator[Outputs]:
        """Yield the mass of each batch, the parts of its logits, and its labels."""
        self.model.eval()
        plan, masses = self.evaluations[split].plan(), self.objective.masses[split]
        for rows, batch in zip(plan, self.loaders[split], strict=True):
            batch = to_device(batch, self.device)
            count = len(rows)  # without rows, the batch has one that does not count
            found = self.model(batch, parts=True)[:, :count]
            yield float(masses[list(rows)].sum()), found, batch["label"][:count]

    def _weights(self) -> Weights:
        return sharding.full_weights(self.accelerator, self.model)

    def _best_score(self) -> Score | None:
        epochs = self.result.epochs
        return epochs[self.result.best - 1]["val"] if epochs else None

    def _ended(self) -> bool:
        patience, epochs = self.training.patience, self.result.epochs
        return self.stopped or (bool(patience) and len(epochs) - self.result.best >= patience)

    def _call(self, scores: Scores) -> bool:
        """Call the callbacks; return whether one asks to stop. The first process decides."""
        metrics: dict[str, Any] = {"model": self.result.name, "epoch": self.epoch}
        for split, score in scores.items():
            metrics[split] = score.named(self.task.score_name)
        answers = [bool(each.on_epoch_end(metrics)) for each in self.environment.callbacks]
        return self._agreed(any(answers))

    def _agreed(self, value: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return value
        return bool(broadcast(torch.tensor([value], dtype=torch.int, device=self.device)))

    def _record(self, epoch: int, split: str, score: Score) -> None:
        self.log.record(
            model=self.result.name,
            epoch=epoch,
            split=split,
            **score.named(self.task.score_name),
            seconds=round(self.result.seconds, 3),
        )

    def _report(self, scores: Scores) -> None:
        """Log the scores of an epoch."""
        for split, score in scores.items():
            self._record(self.epoch, split, score)
        name = self.task.score_name
        note = f"train loss {scores['train'].loss:.3f}, val {name} {scores['val'].score:.3f}"
        self.log.epoch(self.epoch, note)

    def _time_to_save(self) -> bool:
        if self.environment.save is None:
            return False
        due = time.perf_counter() - self.saved >= self.training.save_every
        if self.accelerator.num_processes > 1 and self.step % _ASK:
            return False
        return self._agreed(due)

    def _save(self) -> None:
        if self.environment.save is None:
            return
        scaler = self.accelerator.scaler
        moments, groups = sharding.optimizer_state(self.accelerator, self.model, self.optimizer)
        tensors = {f"network.{name}": each for name, each in self._weights().items()} | moments
        tensors |= {f"best.{name}": each for name, each in self.best.items()}
        if self.meter.sums is not None:
            tensors["meter"] = self.accelerator.gather(self.meter.sums[None])
        state = State(
            metrics=self.log.size(),
            model=self.result.name,
            epoch=self.epoch,
            step=self.step,
            stopped=self.stopped,
            seconds=time.perf_counter() - self.begun,
            processes=self.accelerator.num_processes,
            groups=groups,
            schedule={} if self.schedule is None else self.schedule.state_dict(),
            scaler={} if scaler is None else scaler.state_dict(),
            tensors=tensors,
        )
        self.environment.save(state)
        self.saved = time.perf_counter()

    def restore(self, state: State) -> None:
        """Restore the state of an interrupted training."""
        accelerator = self.accelerator
        if state.processes != accelerator.num_processes:
            raise ConfigError(
                f"processes: the run started with {state.processes}, but there are now "
                f"{accelerator.num_processes}; resume with the same number"
            )
        sharding.load_weights(accelerator, self.model, state.below("network"))
        self.best = state.below("best")
        sharding.load_optimizer(accelerator, self.model, self.optimizer, state)
        if self.schedule is not None:
            self.schedule.load_state_dict(state.schedule)
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state.scaler)
        if state.step:
            self.meter.sums = state.tensors["meter"][accelerator.process_index].to(self.device)
        self.epoch, self.step, self.stopped = state.epoch, state.step, state.stopped
        self.begun = time.perf_counter() - state.seconds
        self.result.seconds = state.seconds
