"""What a run needs to go on after it was killed: the folder `checkpoint` in the run's folder.

| file | |
|---|---|
| run.json | the call that began the run: the manifest, the options, a fingerprint of the rows |
| state.safetensors | where it stands; JSON in the header's metadata, and the tensors below |
| lock | locked by the process that trains |

| tensors | there while a network is in training |
|---|---|
| network.NAME | its weights |
| best.NAME | those of its best epoch so far |
| optimizer.INDEX.NAME | Adam's moments and counts |
| tally.NAME | [P, ...]: what each process has counted of the epoch in progress |

The metadata say which networks are finished, which is in training, the epoch and the step in it,
how many bytes of metrics.jsonl belong to all that, the learning rate's schedule, and the scale of
fp16. Random numbers need no state: the order of an epoch's rows and the generator of every step
follow from the seed and the position. The file replaces the one before it at once, so whenever the
process is killed there is a whole one; the folder goes when the run is complete.
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

from . import files, schema
from .config import DataConfig, TrainConfig
from .errors import ConfigError
from .manifest import Manifest
from .schema import Checked, from_json

FOLDER = "checkpoint"
_RUN, _STATE, _LOCK = "run.json", "state.safetensors", "lock"
CALL = f"{FOLDER}/{_RUN}"


@dataclass(frozen=True)
class Call(Checked):
    """What a run was begun with; see `experiment.fit`."""

    columns: dict[str, str]
    data: DataConfig
    train: TrainConfig
    options: dict[str, Any]
    baselines: bool
    init_from: str | None
    on_bad_row: str
    kind: str
    rows: str  # their fingerprint
    manifest: str  # "": it was no file
    root: str
    workers: int
    tensorboard: bool


@dataclass(frozen=True)
class State:
    """Where a run stands."""

    finished: tuple[str, ...] = ()  # networks whose training is over
    metrics: int = 0  # bytes of metrics.jsonl
    model: str = ""  # the network in training
    epoch: int = 1  # of the step that comes next
    step: int = 0  # of that epoch, so many are done
    seconds: float = 0.0  # spent on the network in training
    processes: int = 1
    groups: list[dict[str, Any]] = field(default_factory=list)  # the optimizer's, with the rate
    schedule: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, by the rest of their names."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): each
            for name, each in self.tensors.items()
            if name.startswith(start)
        }


def save(folder: Path, state: State) -> None:
    """Make `state` what an interrupted run of `folder` goes on from."""
    values = {name: value for name, value in vars(state).items() if name != "tensors"}
    tensors = {name: each.detach().cpu().contiguous() for name, each in state.tensors.items()}
    files.write(folder / FOLDER / _STATE, to_bytes(tensors, {"state": json.dumps(values)}))


def load(folder: Path) -> State | None:
    """What `save` wrote last; None before that."""
    file = folder / FOLDER / _STATE
    if not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="pt") as reader:
            values = files.parse_json((reader.metadata() or {}).get("state", ""), file)
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
        return replace(from_json(State, values), tensors=tensors)
    except (SafetensorError, OSError, ConfigError) as error:
        raise ConfigError(f"{file}: damaged ({error}); restore it, or begin another run") from None


def clear(folder: Path) -> None:
    """Remove the checkpoint of a run that is complete.

    A run with the call but no state would begin anew: the call goes first.
    """
    place = folder / FOLDER
    for name in (_RUN, _STATE, _LOCK):
        files.remove(place / name)
    if place.is_dir():
        place.rmdir()


def begin(folder: Path, run: Mapping[str, Any]) -> None:
    """Write down the call that begins a run; the lock's folder is there."""
    files.write_json(folder / FOLDER / _RUN, run)


def begun(folder: Path) -> Call | None:
    """What `begin` wrote; None where no run was interrupted.

    Raises:
        ConfigError: the file is damaged, or of another version.
    """
    file = folder / FOLDER / _RUN
    return schema.read(Call, file) if file.is_file() else None


def unfinished(folder: Path) -> str | None:
    """What to tell of a run that is not complete; None where it is, or where there is none."""
    if not (folder / CALL).is_file():
        return None
    try:
        with (folder / FOLDER / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"{folder}: the run is still in training; wait until it is complete"
    except OSError:
        pass  # no lock was ever taken, or the file system has none
    return f"{folder}: the run was stopped; go on with: {command(folder)}"


def command(folder: Path) -> str:
    """How to go on with a run on the command line."""
    return f"fastrnn fit --resume {shlex.quote(str(folder))}"


class Lock:
    """A context in which no other process trains the run of a folder. It ends with the process."""

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
        """Lock the run, if it is not yet; without `make` only where one has begun.

        Raises:
            ConfigError: another process trains it.
        """
        place = self._folder / FOLDER
        if make:
            place.mkdir(parents=True, exist_ok=True)
        if self._file is not None or not place.is_dir():
            return
        try:
            file = (place / _LOCK).open("ab")
        except FileNotFoundError:  # the run has just been completed
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ConfigError(
                f"{self._folder}: another process is training this run; wait until it ends, or "
                "stop it first"
            ) from None
        except OSError:
            pass  # a file system without locks: nothing but this protection is lost
        self._file = file
        _held.add(file)


_held: set[IO[bytes]] = set()


def _let_go() -> None:
    for file in _held:
        file.close()
    _held.clear()


# A forked process, such as one that decodes files, would keep the lock when its parent is killed.
os.register_at_fork(after_in_child=_let_go)


def check(folder: Path, begun: Call, now: Mapping[str, Any]) -> None:
    """Refuse to go on with another call than the one that began.

    Raises:
        ConfigError: it names what differs.
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
            f"{folder}: the manifest's rows are not those that the run began with; restore them, "
            "or begin another run"
        )
    if different:
        raise ConfigError(
            f"{folder}: a run goes on with what it began with, but there are other values of "
            f"{', '.join(different)}; leave them as they were, or begin another run"
        )


def fingerprint(manifest: Manifest) -> str:
    """Of the rows' own content; where the folder lies and what its files hold is not part of it."""
    digest = hashlib.sha256()
    for row in manifest.rows:
        values = {**asdict(row), "images": [each.name for each in row.images], "audio": ""}
        digest.update(json.dumps(values, default=str).encode())
    return digest.hexdigest()


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors, as names of `State.tensors`."""
    return {
        f"optimizer.{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Give the optimizer back what `moments` and its groups were.

    Each tensor is laid out in memory as its parameter is: other strides may take another path
    through the arithmetic, whose last bit differs.
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
