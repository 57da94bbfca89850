"""Attributions, additive projections, swaps of states, and the explanation of a run."""

from __future__ import annotations

import json
from unittest import mock

import pytest
import torch
from torch import nn

from fastrnn.fusion import build
from fastrnn.fusion.batch import IGNORE
from fastrnn.fusion.data.dataset import FusionDataset
from fastrnn.fusion.explain import attribution, interventions
from fastrnn.fusion.explain import explainer as explanation
from fastrnn.fusion.explain.emap import additive, emap
from fastrnn.fusion.explain.interventions import Probe
from fastrnn.fusion.inference import loop
from fastrnn.fusion.inference.loop import InferenceConfig
from fastrnn.fusion.models.recurrent import mapped
from fastrnn.fusion.plots import attributions

from ..synthetic import Rows, config, task
from ..trained import trained_run


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("static"), "multiclass", baselines=False)


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("steps"), "steps", baselines=False)


@pytest.fixture(scope="module")
def stepped_lstm(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("lstm"), "steps", baselines=False, cell="lstm")


def test_integrated_gradients_of_a_linear_function_are_exact():
    x, baseline, weight = (torch.randn(3, 4, dtype=torch.float64) for _ in range(3))
    found = attribution.integrated_gradients(lambda x: (weight * x).sum(), x, baseline, steps=3)
    torch.testing.assert_close(found, weight * (x - baseline))


def test_integrated_gradients_add_up():
    x, baseline = torch.randn(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)

    def function(x):
        return x.prod().tanh() + (x**2).sum()

    found = attribution.integrated_gradients(function, x, baseline, steps=400)
    # The error of the midpoint rule is quadratic in the step size.
    assert float(found.sum()) == pytest.approx(float(function(x) - function(baseline)), abs=1e-3)


@pytest.mark.parametrize("modality", ["image", "audio", "text"])
def test_attributions_of_a_modality_add_up(static, modality, monkeypatch):
    """Attributions of a modality sum to the logit's difference from the baseline."""
    network = static.trained[0].model.eval()
    monkeypatch.setattr(attribution, "STEPS", 64)
    batch = static.datasets["train"].batch([3])
    found = attribution.over_input(network, batch, modality, lambda logits: logits[0, 1])
    none = dict(batch)
    with torch.no_grad():
        whole = network(batch)[0, 1]
        if modality == "image":
            none["image_frames"] = torch.full_like(batch["image_frames"].float(), 127.5)
        elif modality == "audio":
            none["audio"] = batch["audio"].mean(1, keepdim=True).expand_as(batch["audio"])
        else:
            embed = attribution.embedding(network, "text")
            kept = embed.weight.clone()
            embed.weight.zero_()
        without = network(none)[0, 1]
        if modality == "text":
            embed.weight.copy_(kept)
    # LayerNorm is steep near a baseline that it maps to zero.
    assert float(found.sum()) == pytest.approx(float(whole - without), abs=0.1)
    assert float((whole - without).abs()) > 0
    shapes = {"image": batch["image_frames"].shape[::2], "audio": batch["audio"].shape[1:]}
    expected = shapes.get(modality, batch["text"].shape[1:])
    if modality == "image":
        expected = (1, 8, 8)
    assert found.shape == expected


def test_attributions_over_steps_add_up(static, monkeypatch):
    network = static.trained[0].model.eval()
    monkeypatch.setitem(network._buffers, "mixture", torch.linspace(0.6, 0.1, len(network.mixture)))
    batch = static.datasets["train"].batch([3])
    found = attribution.over_steps(network, batch, lambda logits: logits[0, 1])
    with torch.no_grad():
        x, lengths, h0 = network.sequence(network.encode(batch), batch)
        ends = [network.head(each, h0, lengths=lengths)[0][0, 1] for each in (x, 0 * x)]
    assert float(found.sum()) == pytest.approx(0.6 * float(ends[0] - ends[1]), abs=1e-3)
    assert len(found) == len(network.step_names(batch)) == 6


class Fake(nn.Module):
    """A network whose logits are a given function of its features."""

    def __init__(self, function, names=("audio", "image", "text")):
        super().__init__()
        self.function, self.names = function, names
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, batch):
        return {name: batch[name] for name in self.names}

    def logits(self, features, batch):
        return self.function(features)


def features(rows=7):
    batch = {name: torch.randn(rows, 3, dtype=torch.float64) for name in ("audio", "image", "text")}
    return batch | {"label": torch.zeros(rows, dtype=torch.int64)}


def projected(function, batch, *names):
    network = Fake(function, *names)
    dice = torch.Generator().manual_seed(0)
    return additive(network, network.encode(batch), batch, dice)


def test_projection_of_an_additive_network_is_itself():
    batch = features()

    def function(x):
        return x["audio"].exp() + x["image"].sin() - 2 * x["text"] ** 2 + 5

    torch.testing.assert_close(projected(function, batch), function(batch))


def test_projection_drops_interactions():
    """A product of two modalities, centred over rows, has no additive part."""
    batch = features()
    for name in ("audio", "image"):
        batch[name] = batch[name] - batch[name].mean(0)

    def function(x):
        return x["audio"] * x["image"] + 3 * x["image"]

    found = projected(function, batch, ("audio", "image"))
    torch.testing.assert_close(found, 3 * batch["image"])


def test_donors_have_the_same_number_of_steps():
    steps = torch.arange(5) < torch.tensor([1, 3, 3, 5, 3, 1])[:, None]
    batch = {"steps": steps, "label": torch.zeros(6, 5)}
    found = interventions.donors(batch, torch.Generator().manual_seed(0))
    assert sorted(found.tolist()) == list(range(6))
    assert torch.equal(steps[found], steps)
    assert found[3] == 3  # the only row of its length
    assert all(found[row] != row for row in (0, 1, 2, 4, 5))


def test_follow_counts_donor_and_host():
    probe = Probe(nn.Identity(), task("multiclass"))
    host, donor = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([1, 1, 1, 1, 0])
    swapped, valid = torch.tensor([1, 0, 2, 0, 0]), torch.tensor([True] * 4 + [False])
    found = probe._follow(host, donor, swapped, valid)
    assert found == {"differ": 3, "donor": 0.333333, "host": 0.333333}
    probe = Probe(nn.Identity(), task("regression"))
    ends = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    found = probe._follow(*ends, torch.tensor([0.9, 0.2]), torch.tensor([True, True]))
    assert found == {"differ": 2, "donor": 0.5, "host": 0.5}


@pytest.mark.slow
def test_network_that_uses_only_its_state_follows_the_donor(stepped):
    """A network whose inputs are zero after the swap depends only on the state."""
    network = build(stepped.config.model).eval()
    dataset = stepped.datasets["train"]
    batch = dataset.batch((dataset.steps > 3).nonzero()[0])
    batch["label"] = torch.where(batch["steps"], 0, IGNORE)
    half = int(batch["steps"].sum(1).median()) // 2
    whole = network.sequence

    def sequence(features, batch):
        found = whole(features, batch)
        x = found.x * 5  # so that rows differ
        x[:, half:] = 0
        return found._replace(x=x)

    network.sequence = sequence
    with torch.no_grad():
        hh, ih = network.head.rnn.weight_hh_l0, network.head.rnn.bias_ih_l0
        hh.copy_(2 * torch.eye(len(hh)))  # keeps positive states positive
        ih.zero_()
        network.head.rnn.bias_hh_l0.zero_()
        network.head.readout.weight.normal_()
        network.mixture[1:] = 0  # no readout of a single input
    found = Probe(network, dataset.processor.task).swap_state(batch)
    assert found["step"] == half
    after = found["after"][0]
    assert after["differ"] > 0
    assert after["donor"] > 0.8  # tanh may change which of two close states is larger
    assert after["host"] < 0.2


SWAPS = {
    "steps": {"stream": True, "problem_type": "steps"},
    "init": {"fusion": "init", "problem_type": "regression"},
}


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("mode", SWAPS)
def test_a_swapped_state_continues_the_donors_sequence(mode, cell):
    """The swapped network computes what one does that read the donor's steps, then the row's."""
    model = config(cell=cell, **SWAPS[mode])
    network, batch = build(model).eval(), Rows(model, count=24).batch()
    logits = []
    network.head.register_forward_hook(lambda *call: logits.append(call[2][0].detach()))
    found = Probe(network, task(model.problem_type), seed=5).swap_state(batch)
    assert len(logits) == 3

    with torch.no_grad():
        x, lengths, start = network.sequence(network.encode(batch), batch)
        half = found["step"]
        rows = (lengths > half).nonzero()[:, 0]
        assert found["rows"] == len(rows) > 2
        x, lengths = x[rows], lengths[rows]
        start = None if start is None else mapped(lambda each: each[:, rows], start)
        giving = torch.randperm(len(rows), generator=torch.Generator().manual_seed(5))
        giving[giving.clone()] = giving.roll(1)
        given = None if start is None else mapped(lambda each: each[:, giving], start)
        mixed = torch.cat([x[giving, :half], x[:, half:]], 1)
        expected = [
            network.head(x, start, lengths=lengths)[0],
            network.head(mixed, given, lengths=lengths)[0],
            network.head(x[:, half:], None, lengths=lengths - half)[0],
        ]
    if mode == "steps":
        expected[:2] = [each[:, half:] for each in expected[:2]]
    torch.testing.assert_close(logits[:3], expected)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)


def test_additive_projection_of_a_run(static):
    network, dataset = static.trained[0].model, static.datasets["train"]
    found = emap(network, dataset, rows=9)
    assert found["rows"] == 9
    assert found == emap(network, dataset, rows=9)
    assert found["gain"]["value"] == pytest.approx(found["score"] - found["additive"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["static", "stepped", "stepped_lstm"])
def test_explain_run(case, request):
    run = request.getfixturevalue(case)
    result = explanation.explain_run(run.folder, examples=2)
    written = json.loads((run.folder / "explanation.json").read_text())
    assert written == json.loads(json.dumps(result))
    modalities = list(run.config.model.modalities)
    assert [each["modality"] for each in result["ablation"]] == modalities
    for each in result["ablation"]:
        assert each["unchanged"] == pytest.approx(run.trained[0].final["test"].score, abs=1e-6)
        assert all(0 <= each[name] <= 1 for name in ("shuffled", "removed", "alone"))
    assert result["emap"]["rows"] >= 1
    assert 0 <= result["emap"]["additive"] <= 1
    assert [each["modality"] for each in result["swap_modality"]] == modalities
    assert result["swap_state"]["rows"] >= 2
    assert len(result["examples"]) == min(2, len(run.datasets["test"]))
    for each in result["examples"]:
        assert each["truth"] in run.processor.task.labels
        assert each["where"].startswith("line ")
        assert (run.folder / each["picture"]).read_bytes().startswith(b"\x89PNG")
        assert set(each["modalities"]) == set(modalities)
        if case == "static":
            assert "word" in "".join(token["name"] for token in each["tokens"])
    assert (run.folder / result["states"]["picture"]).is_file()


def test_features_of_a_text_that_share_a_bucket_add_up(tmp_path):
    dataset = mock.MagicMock(spec=FusionDataset)
    dataset.processor = mock.MagicMock(ngrams=1)  # one bucket
    dataset.text.return_value = "a b"
    dataset.__getitem__.return_value = {"text": [0, 1]}
    dataset.processor.tokenizer_of.return_value.encode.return_value.offsets = [(0, 1), (2, 3)]
    explainer = explanation.Explainer(nn.Identity(), dataset, tmp_path, InferenceConfig())
    found = explainer._spread(0, "text", torch.tensor([1, 1]), torch.tensor([0.5, 0.25]))
    assert float(found.sum()) == pytest.approx(0.75)


def test_without_a_label_the_answer_is_none():
    found = task("multilabel").explained(torch.tensor([[-1.0, -2.0, 3.0]]), torch.zeros(1, 3))
    assert (found.description["truth"], found.description["answer"]) == ("none", "2")


class Pitch(nn.Module):
    """A network that tells low clips from high ones, as their labels do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        frame = batch["audio"][:, 2]
        return (frame[:, 3:].amax(1) - frame[:, :3].amax(1))[:, None]


def test_other_rows_of_a_sorted_table_have_other_labels(tmp_path, monkeypatch):
    run = trained_run(tmp_path, "binary", baselines=False)
    dataset = run.datasets["train"]
    dataset = dataset.select(dataset.encoded.argsort().tolist())
    monkeypatch.setattr(loop, "BATCH_SIZE", 4)
    explainer = explanation.Explainer(Pitch(), dataset, tmp_path, InferenceConfig())
    audio = next(each for each in explainer.ablation() if each["modality"] == "audio")
    assert audio["unchanged"] == 1
    assert audio["shuffled"] < 0.8


@pytest.mark.slow
def test_explain_late_network(tmp_path):
    run = trained_run(tmp_path, "binary", baselines=False, fusion="late")
    result = explanation.explain_run(run.folder, examples=1)
    assert result["emap"] is None
    assert result["swap_state"] is None
    assert result["states"] is None
    assert len(result["ablation"]) == 3
    assert "steps" not in result["examples"][0]


@pytest.mark.parametrize("options", [{"fusion": "parallel"}, {"stream": True}])
def test_states_end_with_the_last_step_of_their_row(options, tmp_path, monkeypatch):
    model = config(modalities=("image", "text"), **options)
    rows = Rows(model, 4)
    dataset = mock.MagicMock(spec=FusionDataset)
    dataset.__len__.return_value = len(rows.rows)
    dataset.batch = lambda chosen: rows.batch(*chosen)
    dataset.where = str
    drawn = mock.Mock()
    monkeypatch.setattr(attributions, "states", drawn)
    network = build(model)
    explainer = explanation.Explainer(network, dataset, tmp_path, InferenceConfig())
    found = explainer.states(network, 4)
    key = "steps" if model.stream else network.fusion.leader
    expected = [len(rows.rows[int(row)][key]) for row in found["rows"]]
    assert len(set(expected)) > 1
    assert drawn.call_args.args[2] == expected


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", ["static", "stepped"])
def test_explanations_do_not_depend_on_batches_and_processes(case, request):
    """Except for those that take a modality from another row of the batch."""
    folder = request.getfixturevalue(case).folder
    found, expected = (
        explanation.explain_run(folder, examples=2, **how)
        for how in ({"batch_size": 3, "num_workers": 2}, {})
    )
    for each in (*found["ablation"], *expected["ablation"]):
        del each["shuffled"]
    assert found == expected
