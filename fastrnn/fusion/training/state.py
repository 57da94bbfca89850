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
| optimizer.PARAMETER.NAME | Adam's moments and counts, by index or, with FSDP, by name |
| meter | [P, S]: the sums of each process for the epoch in progress (meter.py) |

The metadata give the finished networks, the network in training, its epoch and step, the bytes of
metrics.jsonl up to that point, the learning rate schedule, and the scale of fp16. Random numbers
need no state: the order of an epoch's rows and the generator of every step follow from the seed and
the position. Each new file replaces the previous one atomically, so a killed process always leaves
a complete one. The folder is removed when the run is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from .. import files
from ..config import parser as schema
from ..config.parser import Checked, from_json
from ..config.schema import FitConfig
from ..errors import ConfigError
from ..run_lock import CALL, FOLDER, LOCK

_STATE = "state.safetensors"


@dataclass(frozen=True)
class Call(Checked):
    """The call of run.fit that started a run."""

    config: FitConfig
    columns: dict[str, str]
    problem_type: str
    rows: str  # fingerprint of the rows
    manifest: str  # "" if the manifest was not a file
    root: str


@dataclass(frozen=True)
class State:
    """The state of a run."""

    finished: tuple[str, ...] = ()  # networks that are fully trained
    metrics: int = 0  # bytes of metrics.jsonl
    model: str = ""  # the network in training
    epoch: int = 1  # epoch of the next step
    step: int = 0  # finished steps of that epoch
    stopped: bool = False  # a callback stopped the network in training
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
    for name in (Path(CALL).name, _STATE, LOCK):
        files.remove(place / name)
    if place.is_dir():
        place.rmdir()


def begin(folder: Path, call: Call) -> None:
    """Save the call that starts a run. The folder of the lock must exist."""
    files.write_json(folder / CALL, asdict(call))


def begun(folder: Path) -> Call | None:
    """Return the call that `begin` saved, or None if no run was interrupted.

    Raises:
        ConfigError: the file is damaged, or from another version.
    """
    file = folder / CALL
    return schema.read(Call, file) if file.is_file() else None


def check(folder: Path, begun: Call, now: Call) -> None:
    """Check that a resumed run uses the same call as when it started.

    How files are read (FitConfig.loading) may change, except for on_bad_row, and so may the
    trackers and the place of the table.

    Raises:
        ConfigError: the calls differ; the message names the differences.
    """
    before, after = _comparable(begun), _comparable(now)
    if before.pop("rows") != after.pop("rows"):
        raise ConfigError(
            f"{folder}: the rows of the manifest have changed since the run started; restore them, "
            "or start a new run"
        )
    different = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    if different:
        raise ConfigError(
            f"{folder}: a run can only be resumed with its original options, but these differ: "
            f"{', '.join(different)}; restore them, or start a new run"
        )


def _comparable(call: Call) -> dict[str, Any]:
    """Return the values that must not change, "section.name" -> value."""
    value = json.loads(json.dumps(asdict(call)))
    config = value.pop("config")
    loading = config.pop("loading")
    for name in ("manifest", "root"):
        del value[name]
    del config["report_to"]
    sections = {name: config.pop(name) for name in ("data", "model", "train")}
    sections["columns"] = value.pop("columns")
    flat = {f"{name}.{key}": each for name, part in sections.items() for key, each in part.items()}
    return {**value, **config, **flat, "on_bad_row": loading["on_bad_row"]}


def moments(states: Mapping[Any, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of an optimizer's "state", named as in `State.tensors`."""
    return {
        f"optimizer.{parameter}.{name}": value
        for parameter, values in states.items()
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
