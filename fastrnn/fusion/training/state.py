"""Checkpoints to resume an interrupted run: the folder `checkpoint` in the run's folder.

| file | |
|---|---|
| run.json | the call that started the run: the manifest, the options, a fingerprint of the rows |
| state.safetensors | the state of the run: JSON in the header's metadata, and the tensors below |
| lock | locked by the process that trains the run |

| tensors | present while a network is in training |
|---|---|
| network.NAME | its weights |
| best.NAME | its weights at the best epoch so far |
| optimizer.INDEX.NAME | Adam's moments and counts |
| meter.NAME | [P, ...]: the metric sums of each process for the epoch in progress |

The metadata give the finished networks, the network in training, its epoch and step, the bytes of
metrics.jsonl up to that point, the learning rate schedule, and the scale of fp16. Random numbers
need no state: the order of an epoch's rows and the generator of every step follow from the seed and
the position. Each new file replaces the previous one atomically, so a killed process always leaves
a complete one. The folder is removed when the run is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from .. import files
from ..config import parser as schema
from ..config.parser import Checked, from_json
from ..config.schema import DataConfig, TrainConfig
from ..data.manifest import Manifest
from ..errors import ConfigError

FOLDER = "checkpoint"
_RUN, _STATE, _LOCK = "run.json", "state.safetensors", "lock"
CALL = f"{FOLDER}/{_RUN}"


@dataclass(frozen=True)
class Call(Checked):
    """The arguments that a run was started with; see `experiment.fit`."""

    columns: dict[str, str]
    data: DataConfig
    train: TrainConfig
    options: dict[str, Any]
    baselines: bool
    init_from: str | None
    on_bad_row: str
    problem_type: str
    rows: str  # fingerprint of the rows
    manifest: str  # "" if the manifest was not a file
    root: str
    num_workers: int
    tensorboard: bool


@dataclass(frozen=True)
class State:
    """The state of a run."""

    finished: tuple[str, ...] = ()  # networks that are fully trained
    metrics: int = 0  # bytes of metrics.jsonl
    model: str = ""  # the network in training
    epoch: int = 1  # epoch of the next step
    step: int = 0  # finished steps of that epoch
    seconds: float = 0.0  # time spent on the network in training
    processes: int = 1
    groups: list[dict[str, Any]] = field(default_factory=list)  # the optimizer's, with the rate
    schedule: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors with names that start with `prefix`, keyed by the rest of the name."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): each
            for name, each in self.tensors.items()
            if name.startswith(start)
        }


def save(folder: Path, state: State) -> None:
    """Save `state` as the checkpoint of the run in `folder`."""
    values = {name: value for name, value in vars(state).items() if name != "tensors"}
    tensors = {name: each.detach().cpu().contiguous() for name, each in state.tensors.items()}
    files.write(folder / FOLDER / _STATE, to_bytes(tensors, {"state": json.dumps(values)}))


def load(folder: Path) -> State | None:
    """Return the last state that `save` wrote, or None if there is none.

    Raises:
        ConfigError: the file is damaged.
    """
    file = folder / FOLDER / _STATE
    if not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="pt") as reader:
            values = files.parse_json((reader.metadata() or {}).get("state", ""), file)
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
        return replace(from_json(State, values), tensors=tensors)
    except (SafetensorError, OSError, ConfigError) as error:
        raise ConfigError(f"{file}: damaged ({error}); restore it, or start a new run") from None


def clear(folder: Path) -> None:
    """Remove the checkpoint of a run that is complete.

    The call is removed first: a run with a call but no state would start from the beginning.
    """
    place = folder / FOLDER
    for name in (_RUN, _STATE, _LOCK):
        files.remove(place / name)
    if place.is_dir():
        place.rmdir()


def begin(folder: Path, run: Mapping[str, Any]) -> None:
    """Save the call that starts a run. The folder of the lock must exist."""
    files.write_json(folder / FOLDER / _RUN, run)


def begun(folder: Path) -> Call | None:
    """Return the call that `begin` saved, or None if no run was interrupted.

    Raises:
        ConfigError: the file is damaged, or from another version.
    """
    file = folder / FOLDER / _RUN
    return schema.read(Call, file) if file.is_file() else None


def unfinished(folder: Path) -> str | None:
    """Return a message if a run is incomplete; None if it is complete or there is no run."""
    if not (folder / CALL).is_file():
        return None
    try:
        with (folder / FOLDER / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"{folder}: another process is training this run; wait until it is complete"
    except OSError:
        pass  # the lock was never taken, or the file system has no locks
    return f"{folder}: the run was interrupted; resume it with: {command(folder)}"


def command(folder: Path) -> str:
    """Return the command that resumes a run."""
    return f"fastrnn fit --resume {shlex.quote(str(folder))}"


class Lock:
    """Context manager that stops other processes from training the run of a folder.

    The lock is released when the process ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            _held.discard(self._file)
            self._file.close()

    def take(self, make: bool = False) -> None:
        """Lock the run if it is not locked yet.

        Args:
            make: whether to create the folder; without it, only an existing run is locked.

        Raises:
            ConfigError: another process is training the run.
        """
        place = self._folder / FOLDER
        if make:
            place.mkdir(parents=True, exist_ok=True)
        if self._file is not None or not place.is_dir():
            return
        try:
            file = (place / _LOCK).open("ab")
        except FileNotFoundError:  # the run has just finished
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ConfigError(
                f"{self._folder}: another process is training this run; wait until it is complete, "
                "or stop it first"
            ) from None
        except OSError:
            pass  # the file system has no locks, so only this protection is lost
        self._file = file
        _held.add(file)


_held: set[IO[bytes]] = set()


def _let_go() -> None:
    for file in _held:
        file.close()
    _held.clear()


# A forked process, such as a data loader's, would keep the lock after its parent is killed.
os.register_at_fork(after_in_child=_let_go)


def check(folder: Path, begun: Call, now: Mapping[str, Any]) -> None:
    """Check that a resumed run uses the same call as when it started.

    Raises:
        ConfigError: the calls differ; the message names the differences.
    """
    before = json.loads(json.dumps(asdict(begun)))
    now = json.loads(json.dumps(now))
    different = []
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            keys = sorted(value.keys() | old.keys())
            different += [f"{name}.{key}" for key in keys if value.get(key) != old.get(key)]
        elif value != old:
            different.append(name)
    if "rows" in different:
        raise ConfigError(
            f"{folder}: the rows of the manifest have changed since the run started; restore them, "
            "or start a new run"
        )
    if different:
        raise ConfigError(
            f"{folder}: a run can only be resumed with its original options, but these differ: "
            f"{', '.join(different)}; restore them, or start a new run"
        )


def fingerprint(manifest: Manifest) -> str:
    """Return a hash of the rows. It covers neither the folder's path nor the content of files."""
    digest = hashlib.sha256()
    for row in manifest.rows:
        values = {**asdict(row), "images": [each.name for each in row.images], "audio": ""}
        digest.update(json.dumps(values, default=str).encode())
    return digest.hexdigest()


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors, named as in `State.tensors`."""
    return {
        f"optimizer.{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Restore the optimizer's moments and parameter groups.

    Each tensor gets the strides of its parameter: with other strides, torch may use another code
    path, with results that differ in the last bit.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    values: dict[int, dict[str, Tensor]] = {}
    for name, value in state.below("optimizer").items():
        index, key = name.split(".")
        like = parameters[int(index)]
        if value.shape == like.shape and value.dim():
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        values.setdefault(int(index), {})[key] = value
    groups = [
        {name: tuple(each) if name == "betas" else each for name, each in group.items()}
        for group in state.groups
    ]
    optimizer.load_state_dict({"state": values, "param_groups": groups})
