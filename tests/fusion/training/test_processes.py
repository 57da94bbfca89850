"""Test that two processes train like one. torchrun also runs this file as a script."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from rich.console import Console
from safetensors.torch import load_file

from fastrnn.fusion import DataConfig, FitConfig, LoaderConfig, TrainConfig, fit, read_manifest
from fastrnn.fusion.training import baselines, devices, feature_cache, prepare, run, sharding
from fastrnn.fusion.training import state as resume
from fastrnn.fusion.training import trainer as train

DATA = DataConfig(image_size=8, vocabulary=256)
OPTIONS = {"width": 16, "hidden": 16, "conv": (4, 8), "grid": 2}
# 16 rows in steps of 5: the last step has one row, so one of two processes has none.
TRAINING = TrainConfig(
    epochs=2,
    batch_size=5,
    learning_rate=1e-2,
    balance=True,
    label_smoothing=0.1,
    augment_images="flip",
    save_every=1e-9,
)
# 16 rows in steps of 6: the last step has four rows, so two of six accumulated batches have none.
ACCUMULATED = replace(TRAINING, batch_size=6, gradient_accumulation_steps=6, save_every=60)


TRAININGS = {
    "uneven": TRAINING,
    # Fewer rows than processes: the second process never has one.
    "single": TrainConfig(epochs=1, batch_size=1, learning_rate=1e-2, save_every=1e-9),
    "stopped": TrainConfig(epochs=4, batch_size=8, learning_rate=1e-2),
}


class Stopped(Exception):
    pass


class Disagreeing:
    """Stops after the third epoch in the first process, and after the second in the others."""

    def on_epoch_end(self, metrics):
        return metrics["epoch"] == (3 if os.environ.get("RANK", "0") == "0" else 2)


def work(manifest: str, folder: str, training: TrainConfig, stop_at: int = 0) -> None:
    """Train in float64 (see `check`), and stop after `stop_at` saves as if killed (0: never)."""
    save, count = resume.save, 0

    def stopping(folder, state):
        nonlocal count
        count += 1
        save(folder, state)
        if count == stop_at:
            raise Stopped

    before = torch.get_default_dtype(), resume.save
    torch.set_default_dtype(torch.float64)
    resume.save = stopping
    train._ASK = 1  # processes agree on saving after every step
    try:
        table = read_manifest(manifest)
        console = Console(force_terminal=False, width=200)
        config = FitConfig(DATA, OPTIONS, training, baselines=False)
        fit(table, folder, config, resume=True, console=console, callbacks=[Disagreeing()])
    finally:
        torch.set_default_dtype(before[0])
        resume.save = before[1]


def encode_features(manifest: str, folder: str) -> None:
    """Train with a frozen encoder, and save what every process has of its features."""
    make = baselines.with_features

    def saving(datasets, config, accelerator, *more):
        found = make(datasets, config, accelerator, *more)
        values = found["train"].features["text"].values
        np.save(f"{folder}-{accelerator.process_index}.npy", values)
        return found

    options = OPTIONS | {"encoders": {"text": f"transformers:{Path(manifest).parent / 'bert'}"}}
    config = FitConfig(DATA, options, TrainConfig(epochs=1, batch_size=8), baselines=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "with_features", saving)
        patch.setattr(feature_cache, "_ROWS", 2)
        fit(read_manifest(manifest), folder, config, console=Console(quiet=True))


def sharded_accelerator(*_: object) -> Accelerator:
    """Make an accelerator that shards with FSDP 2. By itself, accelerate does so on GPUs only."""
    Accelerator(cpu=True)
    for each in (PartialState, AcceleratorState):
        each._shared_state["distributed_type"] = DistributedType.FSDP
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    AcceleratorState._shared_state["fsdp_plugin"] = plugin
    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    assert sharding.is_sharded(accelerator)
    return accelerator


def scores(folder: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(each["epoch"], each["split"], each["loss"], each["accuracy"]) for each in lines]


@pytest.mark.slow
def test_accumulation_does_not_change_the_result(rows, save, tmp_path):
    manifest = write(rows, save)
    work(manifest, str(tmp_path / "one"), replace(ACCUMULATED, gradient_accumulation_steps=1))
    work(manifest, str(tmp_path / "two"), ACCUMULATED)
    check(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
# Two hosts train with DDP, too.
@pytest.mark.parametrize("strategy", [pytest.param("ddp", marks=pytest.mark.exhaustive), "fsdp"])
def test_two_processes_train_like_one(rows, save, tmp_path, strategy):
    """Also after training is interrupted within an epoch and resumed."""
    manifest = write(rows, save)
    work(manifest, str(tmp_path / "one"), TRAINING)
    stopped = torchrun(manifest, str(tmp_path / "two"), "uneven", "2", strategy)
    assert "Stopped" in stopped.stderr
    ended = torchrun(manifest, str(tmp_path / "two"), "uneven", "0", strategy)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 2/2") == 1  # only one process prints
    check(tmp_path / "one", tmp_path / "two")


@pytest.mark.exhaustive  # of a step it has none in the test above, too
def test_a_process_may_have_no_rows(rows, save, tmp_path):
    compare("single", write(rows, save), tmp_path)


@pytest.mark.exhaustive  # the two hosts below stop like this, too
def test_the_first_process_decides_whether_to_stop(rows, save, tmp_path):
    said = compare("stopped", write(rows, save), tmp_path)
    assert "stopped by a callback" in said
    assert max(epoch for epoch, *_ in scores(tmp_path / "two")) == 3


@pytest.mark.slow
def test_two_hosts_train_like_one_process(rows, save, tmp_path):
    """Each has its own launcher and working directory; they share the run's folder."""
    manifest = write(rows, save)
    work(manifest, str(tmp_path / "one"), TRAININGS["stopped"])
    hosts(tmp_path, manifest, str(tmp_path / "two"), "stopped", "0")
    check(tmp_path / "one", tmp_path / "two")


@pytest.mark.exhaustive
def test_two_hosts_without_a_shared_disk(rows, save, tmp_path):
    """The second host does not see the run's folder, so it would begin what the first resumes."""
    manifest = write(rows, save)
    apart = str(tmp_path / "apart-{RANK}")
    assert "Stopped" in hosts(tmp_path, manifest, apart, "uneven", "2", fail=True)
    said = hosts(tmp_path, manifest, apart, "uneven", "0", fail=True)
    assert said.count("the processes see different files in this folder") == 2


@pytest.mark.exhaustive
def test_two_processes_divide_the_frozen_features(rows, save, tmp_path):
    pytest.importorskip("transformers")
    from ..models.pretrained import save_bert

    manifest = write(rows, save)
    save_bert(tmp_path / "bert")
    encode_features(manifest, str(tmp_path / "one"))
    ended = torchrun(manifest, str(tmp_path / "two"), "features", "0")
    assert ended.returncode == 0, ended.stderr
    expected = np.load(tmp_path / "one-0.npy")
    assert expected.any(1).all()
    for process in (0, 1):
        found = np.load(tmp_path / f"two-{process}.npy")
        # The 4 distinct texts are encoded 4 or 2 at a time, in float32.
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("world", "local", "several"),
    [(None, None, False), ("4", "4", False), ("4", None, False), ("4", "2", True)],
)
def test_several_hosts(monkeypatch, world, local, several):
    for name, value in (("WORLD_SIZE", world), ("LOCAL_WORLD_SIZE", local)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert devices.several_hosts() == several


def test_the_losses_are_divided_once(monkeypatch):
    """A configuration of `accelerate launch` sets this variable."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert devices.make_accelerator().gradient_accumulation_steps == 1


@pytest.mark.parametrize("several", [False, True])
def test_a_disk_cache_is_on_the_host(rows, save, tmp_path, monkeypatch, several):
    folders, load = [], prepare.load_datasets
    monkeypatch.setattr(prepare, "several_hosts", lambda: several)
    done = SimpleNamespace(threshold=None)
    monkeypatch.setattr(run, "train_all", lambda run, *_: run.trained.append(done))
    monkeypatch.setattr(
        prepare, "load_datasets", lambda *a, **how: folders.append(how["folder"]) or load(*a, **how)
    )
    config = FitConfig(DATA, OPTIONS, TRAINING, LoaderConfig(cache="disk"), baselines=False)
    table = read_manifest(write(rows, save))
    fit(table, tmp_path / "run", config, console=Console(quiet=True))
    assert folders == [None if several else tmp_path / "run"]


def hosts(folder: Path, *arguments: str, fail: bool = False) -> str:
    """Run this script by two launchers, as on two hosts with one process each.

    Returns:
        The errors of both, if both fail as expected.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--rdzv-backend"]
    command += ["c10d", "--rdzv-endpoint", f"localhost:{port}", __file__, *arguments]
    started = []
    for name in ("host-0", "host-1"):
        (folder / name).mkdir(exist_ok=True)
        options = {"cwd": folder / name, "env": os.environ | {"PYTHONPATH": root}}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, **options, **pipes))
    said = "".join(each.communicate(timeout=300)[1] for each in started)
    assert all(bool(each.returncode) == fail for each in started), said
    return said


def compare(name: str, manifest: str, folder: Path) -> str:
    """Train with one process and with two, compare them, and return what the two printed."""
    work(manifest, str(folder / "one"), TRAININGS[name])
    ended = torchrun(manifest, str(folder / "two"), name, "0")
    assert ended.returncode == 0, ended.stderr
    check(folder / "one", folder / "two")
    return ended.stdout


def write(rows, save) -> str:
    """Write a manifest with three labels, one of them rare."""
    names = ("image", "text")
    table = [{name: row[name] for name in names} for row in rows]
    return str(save([row | {"label": min(2, number % 5)} for number, row in enumerate(table)]))


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", __file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def check(one: Path, two: Path) -> None:
    """Compare the weights and scores of two ways to train.

    The terms of a gradient are summed in another order. At most 1000 terms are added for one of
    these weights, so a gradient differs by at most 1000 roundings of float64 times its size.
    Clipping limits the size to 1: 1000 × 1.1e-16. Adam's step, rate × m / (sqrt(v) + 1e-8),
    multiplies this by at most 1e8 times the rate, 1e-2: 1.1e-7 per step, or 1e-6 in 8 steps. In
    float32, no bound below a whole step follows. The weights move by about the rate per step, which
    is 1e4 times the bound.
    """
    a, b = (load_file(each / "models" / "fusion" / "model.safetensors") for each in (one, two))
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(b[name], value, rtol=0, atol=1e-6)
    for first, second in zip(scores(one), scores(two), strict=True):
        assert first[:2] == second[:2]
        assert second[2:] == pytest.approx(first[2:], abs=1e-5)  # the losses' slope is below 10


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[5:] == ["fsdp"]:
        run.make_accelerator = sharded_accelerator
    where = sys.argv[2].format(RANK=os.environ["RANK"])
    if sys.argv[3] == "features":
        encode_features(sys.argv[1], where)
    else:
        work(sys.argv[1], where, TRAININGS[sys.argv[3]], int(sys.argv[4]))
