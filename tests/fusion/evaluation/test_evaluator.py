"""Perturbed batches, and the evaluation of a run."""

from __future__ import annotations

import json

import pytest
import torch

from fastrnn.fusion import ConfigError, read_manifest
from fastrnn.fusion.evaluation import evaluator as evaluation
from fastrnn.fusion.evaluation import perturbations
from fastrnn.fusion.evaluation.bootstrap import intervals
from fastrnn.fusion.evaluation.robustness import robustness
from fastrnn.fusion.inference import loop
from fastrnn.fusion.inference.loop import predictions

from ..trained import trained_run
from .test_scores import predicted


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("static"), "binary")


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("steps"), "steps")


@pytest.mark.slow
def test_noise_has_the_given_strength(static):
    batch = static.datasets["train"].batch(range(len(static.datasets["train"])))
    dice = torch.Generator().manual_seed(0)
    worse = perturbations.noise(batch, "audio", 0.5, dice)
    inside = torch.arange(batch["audio"].shape[1]) < batch["audio_lengths"][:, None]
    added = (worse["audio"] - batch["audio"])[inside]
    ratio = float(added.std() / batch["audio"][inside].std())
    assert ratio == pytest.approx(0.5, rel=0.1)  # thousands of samples
    worse = perturbations.noise(batch, "image", 0.25, dice)
    assert worse["image_frames"].dtype == torch.uint8
    assert not torch.equal(worse["image_frames"], batch["image_frames"])
    assert torch.equal(worse["image"], batch["image"])
    worse = perturbations.noise(batch, "text", 1.0, dice, vocabulary=300)
    assert (worse["text"] != batch["text"]).float().mean() > 0.9
    assert torch.equal(perturbations.noise(batch, "text", 0.0, dice, 300)["text"], batch["text"])


def test_donate_swaps_one_modality(static):
    batch = static.datasets["train"].batch(range(4))
    donors = torch.tensor([3, 2, 1, 0])
    other = perturbations.donate(batch, "audio", donors)
    assert torch.equal(other["audio"], batch["audio"].flip(0))
    assert torch.equal(other["audio_lengths"], batch["audio_lengths"].flip(0))
    assert torch.equal(other["text"], batch["text"])


@pytest.mark.parametrize("case", ["static", "stepped"])
def test_evaluate_run(case, request):
    run = request.getfixturevalue(case)
    result = evaluation.evaluate_run(run.folder)
    written = json.loads((run.folder / "evaluation.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert result["split"] == "test"
    assert result["main"] == "fusion"
    assert list(result["models"]) == [each.name for each in (*run.trained, *run.classical)]
    assert bool(run.classical) == (case == "static")
    for each in run.trained:
        found = result["models"][each.name]["scores"]["accuracy"]
        assert found["value"] == pytest.approx(each.final["test"].score, abs=1e-6), each.name
        assert found["low"] <= found["value"] <= found["high"]
    said = [each["summary"] for each in result["comparison"]]
    assert len(said) == len(run.trained) + len(run.classical) - 1
    assert all("fusion" in each and "95% interval" in each for each in said)
    modalities = run.config.model.modalities
    in_time = ["cut short", "silence appended", "shifted"] if case == "static" else []
    changes = {
        "audio": ["removed", *in_time, *["noise"] * 3],
        "image": ["removed", *["noise"] * 3],
        "text": ["removed", *["tokens replaced"] * 3],
    }
    assert [(each["modality"], each["change"]) for each in result["robustness"]] == [
        (name, change) for name in modalities for change in changes[name]
    ]
    strengths = [each["strength"] for each in result["robustness"] if each["strength"] is not None]
    assert strengths == [*perturbations.STRENGTHS] * len(modalities)
    if case == "static":
        assert 0 <= result["models"]["fusion"]["threshold"] <= 1
        assert set(result["models"]["fusion"]["at_threshold"]) == {
            "accuracy",
            "balanced_accuracy",
            "f1",
        }


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", ["static", "stepped"])
def test_scores_do_not_depend_on_batches_and_processes(case, request):
    folder = request.getfixturevalue(case).folder
    expected = evaluation.evaluate_run(folder)
    found = evaluation.evaluate_run(folder, batch_size=3, num_workers=2)
    for name, model in expected["models"].items():
        # Padding may change the order of sums, which may break ties between the probabilities of
        # an AUROC; the other scores are rounded to six digits.
        for score in ("accuracy", "log_loss"):
            assert found["models"][name]["scores"][score] == pytest.approx(
                model["scores"][score], abs=1e-5
            )
    removed = [
        [each for each in result["robustness"] if each["change"] == "removed"]
        for result in (found, expected)
    ]
    assert removed[0] == removed[1]


def test_removing_all_modalities_gives_one_output(static):
    dataset, network = static.datasets["train"], static.trained[0].model

    def nothing(batch):
        for name in static.config.model.modalities:
            batch = perturbations.remove(batch, name)
        return batch

    found = predictions(network, dataset, change=nothing)
    # equal inputs in every row, up to float32 rounding
    assert float(found.output.max() - found.output.min()) < 1e-6


def test_changes_mix_the_labels_of_a_sorted_table(static, monkeypatch):
    dataset = static.datasets["train"]
    dataset = dataset.select(dataset.encoded.argsort().tolist())
    monkeypatch.setattr(loop, "BATCH_SIZE", 4)
    mixed = []

    def noise(batch, *_):
        mixed.append(len(batch["label"].unique()) > 1)
        return batch

    monkeypatch.setattr(perturbations, "noise", noise)
    robustness(static.trained[0].model, static.config.model, dataset, 0.5)
    assert sum(mixed) > len(mixed) / 2


def test_evaluate_on_other_tables(static, tmp_path):
    source = read_manifest(static.config.manifest)
    result = evaluation.evaluate_run(static.folder, source.path, split="val")
    assert result["split"] == "val"  # the run's own table: only the rows of that split
    copy = source.path.with_name("another.jsonl")
    copy.write_text("".join(source.path.read_text().splitlines(True)[:7]))
    result = evaluation.evaluate_run(static.folder, copy)
    assert (result["split"], result["rows"]) == ("all rows", 7)
    config = json.loads((static.folder / "config.json").read_text())
    lost = tmp_path / "lost"
    lost.mkdir()
    kept = ("model.safetensors", "processor_config.json", "tokenizer.json", "split.json")
    for name in (*kept, "metrics.jsonl"):
        (lost / name).write_bytes((static.folder / name).read_bytes())
    (lost / "config.json").write_text(json.dumps(config | {"manifest": "/gone.csv"}))
    with pytest.raises(ConfigError, match="give a manifest"):
        evaluation.evaluate_run(lost)


def test_comparison_in_words():
    good, bad = predicted("binary", skill=3.0), predicted("binary", skill=0.0)
    each = {
        "fusion": evaluation.Evaluation(bad, intervals(bad)),
        "image only": evaluation.Evaluation(good, intervals(good)),
        "late": evaluation.Evaluation(bad, intervals(bad)),
    }
    first, second = evaluation.compare(each, "fusion")
    assert first["summary"].startswith("image only is BETTER than fusion")
    assert second["summary"].startswith("no significant difference between fusion and late")
    swapped = {"fusion": each["image only"], "image only": each["fusion"]}
    assert evaluation.compare(swapped, "fusion")[0]["summary"].startswith("fusion is better")
