"""Test that killed runs resume and give the same result as uninterrupted ones."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save as to_bytes

from fastrnn.fusion import (
    ConfigError,
    DataConfig,
    FitConfig,
    FusionNetwork,
    TrainConfig,
    files,
    fit,
    read_manifest,
    run_lock,
)
from fastrnn.fusion.training import baselines
from fastrnn.fusion.training import run as experiment
from fastrnn.fusion.training import state as resume

from ..conftest import no_space

DATA = DataConfig(image_size=8, vocabulary=256)
OPTIONS = {"width": 16, "hidden": 16, "conv": (4, 8), "grid": 2}
# Saved after every step, so that a kill can hit every stage of an epoch and of a save.
TRAINING = TrainConfig(epochs=2, batch_size=6, gradient_accumulation_steps=2, save_every=1e-9)
QUIET = Console(quiet=True)


@pytest.fixture
def manifest(rows, save) -> Path:
    return save([{name: row[name] for name in ("image", "text", "label")} for row in rows])


def content(folder: Path) -> dict[str, object]:
    """Return the content of every file; metrics without their seconds."""
    found: dict[str, object] = {}
    for each in sorted(folder.rglob("*")):
        if each.name == "metrics.jsonl":
            lines = [json.loads(line) for line in each.read_text().splitlines()]
            assert all(line.pop("seconds") >= 0 for line in lines)
            found[each.name] = lines
        elif each.is_file():
            found[each.relative_to(folder).as_posix()] = each.read_bytes()
    return found


def die_in_write(number: int, stage: str) -> None:
    """Kill this process during its `number`th atomic write."""
    replace, count = os.replace, 0

    def dying(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count < number:
            return replace(source, target)
        if stage == "half written":
            os.truncate(source, os.path.getsize(source) // 2)
        elif stage == "renamed":
            replace(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    files.os.replace = dying


def work(manifest: str, folder: str, number: int = 0, stage: str = "") -> None:
    """Run one attempt; runs in its own process."""
    torch.set_num_threads(1)
    forward = FusionNetwork.forward

    def noisy(self, batch):  # makes every step depend on random numbers
        return torch.nn.functional.dropout(forward(self, batch), 0.3, self.training)

    FusionNetwork.forward = noisy
    variants = baselines.variants
    for module in (baselines, experiment):
        module.variants = lambda *all: {name: variants(*all)[name] for name in ("fusion", "late")}
    if number:
        die_in_write(number, stage)
    table = read_manifest(manifest)
    fit(table, folder, FitConfig(DATA, OPTIONS, TRAINING), console=QUIET, resume=True)


def test_a_killed_run_gives_the_same_result_as_an_uninterrupted_one(manifest, tmp_path):
    """Kills the run at random times and during writes, and repeats the same command each time."""
    dice = random.Random(os.environ.get("FASTRNN_TEST_SEED", 0))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # import once, not per process

    def attempt(folder: str, *last: object) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=work, args=(str(manifest), str(tmp_path / folder), *last))
        process.start()
        return process

    once = attempt("once")
    while not (tmp_path / "once").exists():  # the first process must import torch
        time.sleep(0.01)
    start = time.perf_counter()
    once.join()
    seconds = time.perf_counter() - start
    assert once.exitcode == 0

    # Five writes precede the first state, and many follow it.
    writes = [(1, "half written"), (dice.randint(6, 9), "half written")]
    writes += [(dice.randint(2, 9), stage) for stage in ("written", "renamed")]
    for number, stage in writes:
        process = attempt("often", number, stage)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the write was not reached"
    kills = 0
    while True:
        process = attempt("often")
        if kills < 2:
            process.join(dice.uniform(0.1, 0.5) * seconds)
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert content(tmp_path / "often") == content(tmp_path / "once")
    assert not (tmp_path / "often" / "checkpoint").exists()


class Stopped(Exception):
    pass


@contextmanager
def stopped_at(monkeypatch, number: int) -> Iterator[None]:
    """Stop the training after the `number`th save of a state."""
    save, count = resume.save, 0

    def stopping(folder, state):
        nonlocal count
        count += 1
        save(folder, state)
        if count == number:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", stopping)
        with pytest.raises(Stopped):
            yield


def quick(manifest, folder, training=TRAINING, options=OPTIONS, *, resume=False, **others):
    config = FitConfig(DATA, options, training, baselines=False, **others)
    return fit(read_manifest(manifest), folder, config, resume=resume, console=QUIET)


PATIENT = TrainConfig(
    epochs=4, batch_size=8, schedule="constant", patience=1, learning_rate=0.3, save_every=1e-9
)
BF16 = TrainConfig(epochs=2, batch_size=8, precision="bf16", balance=True, save_every=1e-9)


@pytest.mark.parametrize(
    ("training", "cell"),
    [
        pytest.param(PATIENT, "rnn", id="patience"),
        pytest.param(BF16, "rnn", id="bf16"),
        pytest.param(BF16, "lstm", id="bf16-lstm"),
        pytest.param(PATIENT, "lstm", id="patience-lstm", marks=pytest.mark.exhaustive),
        pytest.param(BF16, "gru", id="bf16-gru", marks=pytest.mark.exhaustive),
        pytest.param(PATIENT, "gru", id="patience-gru", marks=pytest.mark.exhaustive),
    ],
)
def test_every_training_option_can_be_resumed(manifest, tmp_path, monkeypatch, training, cell):
    options = OPTIONS | {"cell": cell}
    quick(manifest, tmp_path / "once", training, options)
    for number in (1, 2):
        with stopped_at(monkeypatch, number):
            quick(manifest, tmp_path / "often", training, options, resume=True)
    resumed = experiment.resume(tmp_path / "often", QUIET)
    assert content(tmp_path / "often") == content(tmp_path / "once")
    assert resumed.trained[0].seconds > 0


def test_a_complete_run_is_not_trained_again(manifest, tmp_path):
    first = quick(manifest, tmp_path / "run")
    before = content(tmp_path / "run")
    second = quick(manifest, tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == before
    assert second.trained[0].epochs == first.trained[0].epochs
    assert second.trained[0].final == first.trained[0].final
    weights = second.trained[0].model.state_dict()
    for name, each in first.trained[0].model.state_dict().items():
        assert torch.equal(each, weights[name])
    with pytest.raises(ConfigError, match="complete"):
        experiment.resume(tmp_path / "run", QUIET)


def test_a_run_resumes_only_with_its_original_call(manifest, rows, save, tmp_path, monkeypatch):
    with stopped_at(monkeypatch, 1):
        quick(manifest, tmp_path / "run")
    with pytest.raises(ConfigError, match="resume it, or"):
        quick(manifest, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model\.hidden"):
        quick(manifest, tmp_path / "run", options=OPTIONS | {"hidden": 8}, resume=True)
    changed = TrainConfig(
        epochs=2, batch_size=8, gradient_accumulation_steps=2, save_every=1e-9, seed=1
    )
    with pytest.raises(ConfigError, match=r"train\.batch_size, train\.seed"):
        quick(manifest, tmp_path / "run", changed, resume=True)
    state = resume.load(tmp_path / "run")
    resume.save(tmp_path / "run", resume.State(**(vars(state) | {"processes": 2})))
    with pytest.raises(ConfigError, match="resume with the same number"):
        quick(manifest, tmp_path / "run", resume=True)
    save([{name: row[name] for name in ("image", "text", "label")} for row in rows[::-1]])
    with pytest.raises(ConfigError, match="the rows of the manifest have changed"):
        experiment.resume(tmp_path / "run", QUIET)
    with pytest.raises(ConfigError, match="contains no interrupted run"):
        experiment.resume(tmp_path, QUIET)


def test_moments_have_the_strides_of_their_parameters():
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    tensors = {name: each.contiguous() for name, each in resume.moments(optimizer).items()}
    groups = json.loads(json.dumps(optimizer.state_dict()["param_groups"]))
    other = torch.optim.Adam(layer.parameters())
    resume.restore_optimizer(other, resume.State(groups=groups, tensors=tensors))
    for each in layer.parameters():
        for name, value in optimizer.state[each].items():
            assert torch.equal(other.state[each][name], value)
            assert other.state[each][name].stride() == value.stride()
    assert other.param_groups[0]["betas"] == (0.9, 0.999)


def test_only_one_process_trains_a_run(manifest, tmp_path, monkeypatch):
    quick(manifest, tmp_path / "once")
    folder = tmp_path / "run"
    with stopped_at(monkeypatch, 3):
        quick(manifest, folder)
    before = content(folder)
    with run_lock.Lock(folder) as lock:
        lock.take()
        lock.take()  # already locked
        for again in (
            lambda: experiment.resume(folder, QUIET),
            lambda: quick(manifest, folder, resume=True),
        ):
            with pytest.raises(ConfigError, match="another process is training this run; wait"):
                again()
        assert "another process is training" in run_lock.unfinished(folder)
        assert content(folder) == before
    assert run_lock.unfinished(folder).endswith(
        f"the run was interrupted; resume it with: fastrnn fit --resume {folder}"
    )
    experiment.resume(folder, QUIET)
    assert content(folder) == content(tmp_path / "once")
    assert run_lock.unfinished(folder) is None


def test_two_runs_started_at_the_same_time(manifest, tmp_path, monkeypatch):
    """The second run detects the first before it writes anything."""
    folder, load = tmp_path / "run", experiment._load
    expected = None

    def first_begins(*arguments):
        nonlocal expected
        monkeypatch.setattr(experiment, "_load", load)
        with stopped_at(monkeypatch, 1):
            quick(manifest, folder)
        expected = content(folder)
        return load(*arguments)

    monkeypatch.setattr(experiment, "_load", first_begins)
    with pytest.raises(ConfigError, match=r"already contains checkpoint/run\.json; resume it"):
        quick(manifest, folder)
    assert content(folder) == expected


@pytest.mark.filterwarnings("ignore:.*fork")
def test_the_lock_is_released_with_the_process(tmp_path):
    """The lock is released even if the process leaves a forked child behind."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with run_lock.Lock(tmp_path) as lock:
            lock.take(make=True)
            left = os.fork()
            if left:
                os.write(writer, left.to_bytes(8, "big"))
            signal.pause()
    left = int.from_bytes(os.read(reader, 8), "big")
    try:
        with run_lock.Lock(tmp_path) as lock, pytest.raises(ConfigError, match="another process"):
            lock.take()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.kill(left, 0)  # the child still exists
        with run_lock.Lock(tmp_path) as lock:
            lock.take()
    finally:
        os.kill(left, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("run.json", lambda content: b"{", r"run\.json: damaged: not JSON"),
        ("run.json", lambda content: b"{}", r"run\.json: the configuration lacks config, columns"),
        ("state.safetensors", lambda content: content[: len(content) // 2], "start a new run"),
        ("state.safetensors", lambda content: to_bytes({}, {"state": "[]"}), "start a new run"),
    ],
)
def test_the_error_names_a_damaged_checkpoint(manifest, tmp_path, monkeypatch, name, damage, said):
    folder = tmp_path / "run"
    with stopped_at(monkeypatch, 1):
        quick(manifest, folder)
    file = folder / "checkpoint" / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ConfigError, match=said) as caught:
        experiment.resume(folder, QUIET)
    assert str(file) in str(caught.value)


def test_a_checkpoint_of_another_network_is_rejected(manifest, tmp_path, monkeypatch):
    with stopped_at(monkeypatch, 1):
        quick(manifest, tmp_path / "run")
    state = resume.load(tmp_path / "run")
    resume.save(tmp_path / "run", resume.State(**(vars(state) | {"tensors": {}})))
    with pytest.raises(ConfigError, match="the checkpoint does not fit this network"):
        experiment.resume(tmp_path / "run", QUIET)


def test_a_full_disk_keeps_the_previous_file(tmp_path):
    """A limit on the file size fails like a full disk."""
    file = tmp_path / "file"
    files.write(file, "before")
    with no_space(3), pytest.raises(OSError, match="too large") as caught:
        files.write(file, b"more than fits")
    assert caught.value.filename == str(file)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["before"]


def test_a_run_resumes_after_a_full_disk(manifest, tmp_path):
    quick(manifest, tmp_path / "once")
    with no_space(20_000), pytest.raises(OSError, match="too large") as caught:
        quick(manifest, tmp_path / "run")
    assert caught.value.filename.startswith(str(tmp_path / "run"))
    experiment.resume(tmp_path / "run", QUIET)
    assert content(tmp_path / "run") == content(tmp_path / "once")
