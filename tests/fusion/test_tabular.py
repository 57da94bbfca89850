"""Test models of numbers, categories and dates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from fastrnn.fusion import ConfigError, FusionModel, ManifestError, build, load, read_manifest
from fastrnn.fusion.data.dataset import load_dataset
from fastrnn.fusion.evaluation import perturbations
from fastrnn.fusion.evaluation.evaluator import evaluate_run
from fastrnn.fusion.explain import attribution
from fastrnn.fusion.explain.explainer import explain_run
from fastrnn.fusion.inference.predictor import Predictor

from .conftest import write_image
from .synthetic import Rows, config

SIZES = (3, 1, 4)


def model(modalities=("tabular",), **options):
    return config(modalities=modalities, numbers=2, categories=SIZES, **options)


def columns(rows=6, seed=0):
    """Return the tabular part of a random batch, with missing numbers and categories."""
    random = torch.Generator().manual_seed(seed)
    known = torch.rand(rows, 2, generator=random) < 0.7
    sizes = torch.tensor(SIZES)
    return {
        "tabular": torch.where(known, torch.randn(rows, 2, generator=random), 0),
        "tabular_known": known,
        "tabular_categories": (torch.rand(rows, 3, generator=random) * (sizes + 1)).long(),
    }


def test_the_vectors_are_those_of_the_formula():
    encoder = build(model()).encoders["tabular"]
    batch = columns()
    weights = {name: each.detach() for name, each in encoder.columns.named_parameters()}
    found = encoder.columns(batch)
    assert found.shape == (6, 5, 16)
    for row in range(6):
        for number in range(2):
            x = batch["tabular"][row, number]
            expected = x * weights["weight"][number] + weights["bias"][number]
            if not batch["tabular_known"][row, number]:
                expected = weights["missing"][number]
            torch.testing.assert_close(found[row, number], expected)
        for number, start in enumerate((0, 4, 6)):
            index = start + batch["tabular_categories"][row, number]
            assert torch.equal(found[row, 2 + number], weights["embed.weight"][index])
    assert len(weights["embed.weight"]) == 4 + 2 + 5


@pytest.mark.parametrize("numbers", [0, 2])
@pytest.mark.parametrize("sizes", [(), (3, 1, 4)])
def test_only_numbers_or_only_categories(numbers, sizes):
    options = {"modalities": ("tabular",), "numbers": numbers, "categories": sizes}
    if not numbers and not sizes:
        with pytest.raises(ConfigError, match=r"set ModelConfig\.numbers or categories"):
            build(config(**options))
        return
    batch = columns()
    batch = {key: each[:, :numbers] for key, each in batch.items() if "cat" not in key} | {
        "tabular_categories": batch["tabular_categories"][:, : len(sizes)]
    }
    network = build(config(**options))
    network(batch).sum().backward()
    assert all(each.grad is not None for each in network.parameters())


def test_in_streams_they_are_repeated_at_every_step():
    network = build(model(("image", "tabular"), stream=True))
    batch = Rows(config(modalities=("image",), stream=True)).batch() | columns()
    features = network.encode(batch)
    assert features["tabular"].shape == (6, 16)
    x = network.sequence(features, batch).x[..., 16:]
    assert torch.equal(x, x[:, :1].expand_as(x))


def test_noise():
    batch = columns(4000)
    dice = torch.Generator().manual_seed(1)
    noisy = perturbations.noise(batch, "tabular", 0.25, dice, categories=SIZES)
    known = batch["tabular_known"]
    assert torch.equal(noisy["tabular"][~known], batch["tabular"][~known])
    difference = (noisy["tabular"] - batch["tabular"])[:, 0][known[:, 0]]
    spread = batch["tabular"][:, 0][known[:, 0]].std()
    assert float(difference.std() / spread) == pytest.approx(0.25, rel=0.1)
    before, after = batch["tabular_categories"], noisy["tabular_categories"]
    assert torch.equal(before[:, 1], after[:, 1])  # there is no other category
    for number in (0, 2):
        there = before[:, number] > 0
        assert torch.equal(after[:, number][~there], before[:, number][~there])
        changed = after[:, number] != before[:, number]
        assert float(changed[there].double().mean()) == pytest.approx(0.25, abs=0.04)
        assert set(after[:, number][there].tolist()) == set(range(1, SIZES[number] + 1))


def test_attributions_of_the_columns_add_up():
    network = build(model(("tabular", "text"))).double().requires_grad_(False)
    rows = Rows(config(modalities=("text",))).batch(1)
    batch = rows | {key: each[2:3] for key, each in columns().items()}
    found = attribution.over_input(network, batch, "tabular", lambda logits: logits[0, 0])
    assert found.shape == (5,)
    encoder, features = network.encoder("tabular"), network.encode(batch)
    average = encoder.perceptron(encoder.columns.bias.sum(0))[None]
    ends = [
        network.logits({**features, "tabular": each}, batch)[0, 0]
        for each in (features["tabular"], average)
    ]
    assert float(found.sum()) == pytest.approx(float(ends[0] - ends[1]), abs=1e-3)


def rule(rows, seed=0):
    """Return rows whose label is decided by a category and the sign of a number."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "colour": random.choice(["red", "green", "blue"], rows),
            "weight": np.where(random.random(rows) < 0.1, np.nan, random.normal(70, 9, rows)),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 99, rows), "D"),
        }
    )
    heavy = frame["weight"].fillna(0) > 70
    frame["label"] = np.where(heavy ^ (frame["colour"] == "red"), "yes", "no")
    return frame


TINY = {"width": 16, "hidden": 12, "conv": (4, 8), "grid": 2, "image_size": 8, "batch_size": 16}


@pytest.mark.slow
def test_a_table_without_files_is_learned():
    fitted = FusionModel(**TINY, epochs=12, learning_rate=0.01).fit(rule(400))
    assert fitted.config.model.modalities == ("tabular",)
    other = rule(300, seed=1)
    assert fitted.score(other) > 0.9
    other["colour"] = "unseen"
    assert len(fitted.predict(other.drop(columns="label"))) == 300
    with pytest.raises(ConfigError, match="no column 'weight', which the model reads"):
        fitted.predict(other.drop(columns="weight"))
    with pytest.raises(ManifestError, match="reads tabular:weight, but there is no such column"):
        load_dataset(read_manifest(rule(300).drop(columns="weight")), fitted.processor)


@pytest.mark.exhaustive
def test_from_the_table_to_the_exported_model(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from fastrnn.fusion.export import run, to_inputs, to_onnx

    frame = rule(40)
    for number in range(40):
        write_image(tmp_path / f"{number}.png", number)
    frame["picture"] = [f"{number}.png" for number in range(40)]
    table = tmp_path / "table.csv"
    frame.to_csv(table, index=False)
    folder = tmp_path / "run"
    fitted = FusionModel(**TINY, epochs=1, baselines=True, output_dir=folder).fit(table)
    assert fitted.config.columns["tabular:day"] == "day"
    found = evaluate_run(folder)
    assert {each["modality"] for each in found["robustness"]} == {"image", "tabular"}
    assert "tabular only" in found["models"]
    for each in explain_run(folder, examples=2)["examples"]:
        assert [column["name"] for column in each["columns"]] == ["day", "weight", "colour"]
        total = sum(column["attribution"] for column in each["columns"])
        assert each["modalities"]["tabular"] == pytest.approx(total, abs=1e-6)

    network, processor, run_config = load(folder)
    manifest = read_manifest(table, run_config.columns, infer=())
    batch = load_dataset(manifest, processor).batch(range(40))
    session = onnxruntime.InferenceSession(
        str(to_onnx(network, processor, batch, tmp_path / "model.onnx"))
    )
    names = {each.name for each in session.get_inputs()}
    assert names == {"image", "tabular", "tabular_known", "tabular_categories"}
    exported = run(session, to_inputs(network, batch))["probabilities"].reshape(-1)
    told = fitted.predict_proba(table)["yes"]
    assert told.tolist() == pytest.approx(exported.tolist(), abs=1e-5)
    renamed = frame.rename(columns={"weight": "mass"})
    named = {"tabular": ["colour", "mass", "day"]}
    predictor = Predictor(network, processor, run_config)
    (records,) = predictor.predict(renamed, columns=named, root=tmp_path)
    again = [record["probabilities"]["yes"] for record in records]
    assert again == pytest.approx(told.tolist(), abs=1e-6)


@pytest.mark.slow
def test_a_transferred_model_keeps_the_categories_of_its_columns(tmp_path):
    fitted = FusionModel(**TINY, epochs=1, output_dir=tmp_path / "run").fit(rule(60))
    before = {each.name: each for each in fitted.processor.tabular}
    table = rule(60, seed=2).assign(height=np.arange(60) % 7)
    table["colour"] = table["colour"].replace("blue", "yellow")
    after = FusionModel(**TINY, epochs=1, init_from=tmp_path / "run").fit(table)
    known = {each.name: each for each in after.processor.tabular}
    assert known.pop("tabular:height").scale[0] != 0
    assert known == before


@pytest.mark.slow
def test_streams_with_columns(streams, save):
    for number, row in enumerate(streams):
        row |= {"age": number % 7 if number % 5 else None, "sex": "fm"[number % 2]}
    fitted = FusionModel(**TINY, epochs=1, sample_rate=8000, mels=8).fit(save(streams))
    assert fitted.config.model.modalities == ("audio", "image", "tabular")
    labels = fitted.predict(save(streams))
    assert [len(each) for each in labels] == [len(row["image"]) for row in streams]
