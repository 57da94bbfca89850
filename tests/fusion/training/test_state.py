"""Test that killed runs resume and give the same result as uninterrupted ones."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as to_bytes

from fastrnn.fusion import (
    ConfigError,
    FitConfig,
    FusionNetwork,
    LoaderConfig,
    TrainConfig,
    files,
    fit,
    read_manifest,
)
from fastrnn.fusion.training import baselines
from fastrnn.fusion.training import run as experiment
from fastrnn.fusion.training import state as resume

from ..conftest import no_space
from .conftest import DATA, OPTIONS, QUIET, TRAINING, content, quick, stopped_at


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


def work(manifest: str, folder: str, num_workers: int, number: int = 0, stage: str = "") -> None:
    """Run one attempt; runs in its own process."""
    torch.set_num_threads(1)
    forward = FusionNetwork.forward

    def noisy(self, batch, **how):  # makes every step depend on random numbers
        return torch.nn.functional.dropout(forward(self, batch, **how), 0.3, self.training)

    FusionNetwork.forward = noisy
    variants = baselines.variants
    for module in (baselines, experiment):
        module.variants = lambda *all: {name: variants(*all)[name] for name in ("fusion", "late")}
    if number:
        die_in_write(number, stage)
    table = read_manifest(manifest)
    config = FitConfig(DATA, OPTIONS, TRAINING, LoaderConfig(num_workers=num_workers))
    fit(table, folder, config, console=QUIET, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_a_killed_run_gives_the_same_result_as_an_uninterrupted_one(
    manifest, tmp_path, num_workers
):
    """Kills the run at random times and during writes, and repeats the same command each time."""
    dice = random.Random(os.environ.get("FASTRNN_TEST_SEED", 0))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # import once, not per process

    def attempt(folder: str, *last: object) -> multiprocessing.process.BaseProcess:
        workers = 0 if folder == "once" else num_workers
        arguments = (str(manifest), str(tmp_path / folder), workers, *last)
        process = context.Process(target=work, args=arguments)
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


PATIENT = TrainConfig(
    epochs=4, batch_size=8, schedule="constant", patience=1, learning_rate=0.3, save_every=1e-9
)
BF16 = TrainConfig(epochs=2, batch_size=8, precision="bf16", balance=True, save_every=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "cell"),
    [
        pytest.param(PATIENT, "rnn", id="patience"),
        pytest.param(BF16, "rnn", id="bf16"),
        pytest.param(BF16, "lstm", id="bf16-lstm", marks=pytest.mark.exhaustive),
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
    states = optimizer.state_dict()["state"]
    tensors = {name: each.contiguous() for name, each in resume.moments(states).items()}
    groups = json.loads(json.dumps(optimizer.state_dict()["param_groups"]))
    other = torch.optim.Adam(layer.parameters())
    resume.restore_optimizer(other, resume.State(groups=groups, tensors=tensors))
    for each in layer.parameters():
        for name, value in optimizer.state[each].items():
            assert torch.equal(other.state[each][name], value)
            assert other.state[each][name].stride() == value.stride()
    assert other.param_groups[0]["betas"] == (0.9, 0.999)


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


@pytest.mark.slow
def test_a_run_resumes_after_a_full_disk(manifest, tmp_path):
    quick(manifest, tmp_path / "once")
    with no_space(20_000), pytest.raises(OSError, match="too large") as caught:
        quick(manifest, tmp_path / "run")
    assert caught.value.filename.startswith(str(tmp_path / "run"))
    experiment.resume(tmp_path / "run", QUIET)
    assert content(tmp_path / "run") == content(tmp_path / "once")
