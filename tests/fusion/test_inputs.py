"""Test several columns of a modality, from the table to the exported model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rich.console import Console

from fastrnn.fusion import (
    ConfigError,
    DataConfig,
    FitConfig,
    ManifestError,
    ModelConfig,
    TrainConfig,
    build,
    fit,
    load,
    read_manifest,
)
from fastrnn.fusion.config.inputs import input_names, modality_of, override
from fastrnn.fusion.data.dataset import load_dataset
from fastrnn.fusion.data.groups import linked
from fastrnn.fusion.data.processor import Processor
from fastrnn.fusion.evaluation.evaluator import evaluate_run
from fastrnn.fusion.explain import attribution
from fastrnn.fusion.explain.explainer import explain_run
from fastrnn.fusion.inference.predictor import Predictor
from fastrnn.fusion.models.network import single
from fastrnn.fusion.training.transfer import freeze

from .conftest import write_image
from .synthetic import Rows, config

DATA = DataConfig(image_size=8, sample_rate=8000, mels=12, vocabulary=256)
TINY = {"width": 16, "hidden": 12, "conv": (4, 8), "grid": 2}
INPUTS = ("audio", "image:back", "image:front_side", "text:note", "text:title")


@pytest.fixture
def pairs(rows, tmp_path):
    """Rows with two photographs, two texts and a clip; the last two lack one photograph."""
    result = []
    for number, row in enumerate(rows):
        write_image(tmp_path / f"back{number}.png", 100 + number)
        result.append(
            {
                "front.side": row["image"],
                "back": f"back{number}.png" if number < 18 else "",
                "title": f"title {number % 3}",
                "note": row["text"],
                "audio": row["audio"],
                "label": row["label"],
            }
        )
    return result


def read(path):
    return read_manifest(path, {"image": ["front.side", "back"], "text": "title,note"})


def test_names():
    assert input_names("image", ["a.b"]) == {"image": "a.b"}
    columns = ["a.b", "a b", "a_b", "", "x", "x_lengths", "é:+"]
    names = input_names("text", columns)
    assert list(names.values()) == columns
    assert list(names)[:4] == ["text:a_b", "text:a_b_2", "text:a_b_3", "text:_"]
    keys = [name + ending for name in names for ending in ("", "_frames", "_lengths", "_present")]
    assert len(set(keys)) == len(keys)
    for name in names:
        assert modality_of(name) == "text"
        assert ModelConfig((name,), vocabulary=9).modalities == (name,)
    for name in ("video", "video:a", "text:a.b", "text:", ":a", "label:a"):
        with pytest.raises(ConfigError, match="one of audio, image"):
            ModelConfig((name,), vocabulary=9)


def test_columns_of_a_run_under_other_names():
    run = {"image:a": "front", "image:b": "back", "text": "note", "label": "y"}
    named = {"image": "f,b", "text": "caption", "group": "who"}
    expected = {**run, "image:a": "f", "image:b": "b", "text": "caption", "group": "who"}
    assert override(run, named) == expected
    assert override(run, {"image:b": "b,c"})["image:b"] == "b,c"
    with pytest.raises(ConfigError, match=r"reads 2 columns of image \(front, back\)"):
        override(run, {"image": "f"})


def test_all_columns_of_a_kind_are_inferred(pairs, save):
    manifest = read_manifest(save(pairs), {"text": ["title", "note"]})
    assert manifest.modalities == INPUTS
    assert manifest.columns["image:front_side"] == "front.side"
    ignoring = read_manifest(save(pairs), {"text": "title"}, ignore=["back", "note"])
    assert ignoring.modalities == ("audio", "image", "text")
    assert ignoring.ignored == ("back", "note")
    named = read_manifest(save(pairs), {"text": "title", "image": ["back"]}, infer=("label",))
    assert named.modalities == ("image", "text")


def test_rows_that_share_a_file_in_other_columns_stay_together(pairs, save):
    pairs[3]["back"] = pairs[7]["front.side"]
    sets = linked(read(save(pairs)).rows, range(20))
    assert [3, 7] in sets
    assert len(sets) == 19


@pytest.fixture
def dataset(pairs, save):
    manifest = read(save(pairs))
    return load_dataset(manifest, Processor.fit(manifest, range(20), DATA))


def test_each_column_is_read_like_an_only_column(dataset, pairs, save):
    batch = dataset.batch([2, 19, 5])
    processor = dataset.processor
    for name, column in dataset.manifest.columns.items():
        modality = modality_of(name)
        if modality not in ("image", "text"):
            continue
        named = {modality: column, "label": "label"}
        manifest = read_manifest(save(pairs), named, infer=(), on_bad_row="skip")
        alone = Processor(DATA, processor.task, (modality,), tokenizer=processor.tokenizer)
        only = load_dataset(manifest, alone, [2, 5]).batch([0, 1])
        if modality == "text":
            length = int(only["text_lengths"].max())
            assert torch.equal(batch[name][::2, :length], only["text"])
            assert torch.equal(batch[f"{name}_lengths"][::2], only["text_lengths"])
        else:
            pixels = batch[f"{name}_frames"][batch[name]]
            assert torch.equal(pixels[::2], only["image_frames"][only["image"]])
    assert batch["image:back_present"].tolist() == [True, False, True]
    assert "image:front_side_present" not in batch


def named(batch, only, name):
    """Return a batch whose input `only` is called `name`."""
    return {
        name + key.removeprefix(only) if key == only or key.startswith(f"{only}_") else key: value
        for key, value in batch.items()
    }


@pytest.mark.parametrize("fusion", ["tokens", "concat", "parallel", "late"])
def test_a_column_is_encoded_like_an_only_column(fusion):
    model = config(modalities=("image", "text"), fusion=fusion)
    other = config(modalities=("image:a", "text:b"), fusion=fusion)
    network, renamed = build(model), build(other)
    own = renamed.state_dict()
    for name, weight in network.state_dict().items():
        name = name.replace("image_text", "image:a+text:b")
        name = name.replace("text_ngrams", "text:b_ngrams")
        own[name.replace(".image.", ".image:a.").replace(".text.", ".text:b.")].copy_(weight)
    batch = Rows(model).batch()
    changed = named(named(batch, "image", "image:a"), "text", "text:b")
    assert torch.equal(network(batch), renamed(changed))


def test_columns_share_an_encoder_on_request():
    names = ("image:a", "image:b", "text:a", "text:b")
    shared = config(modalities=names, share=("image",))
    network = build(shared)
    assert set(network.encoders) == {"image", "text:a", "text:b"}
    rows = Rows(config(modalities=("image", "text"))).batch()
    batch = named(named(rows, "image", "image:a"), "text", "text:a")
    batch |= named(named(rows, "image", "image:b"), "text", "text:b")
    found = network.encode(batch)
    assert torch.equal(found["image:a"], found["image:b"])
    assert not torch.equal(found["text:a"], found["text:b"])
    network(batch).sum().backward()
    assert all(each.grad is not None for each in network.encoders.parameters())
    frozen = freeze(network, ["image"])
    assert frozen == [n for n, _ in network.named_parameters() if n.startswith("encoders.image.")]
    both = freeze(build(shared), ["text"])
    assert {name.split(".")[1] for name in both} == {"text:a", "text:b"}
    assert set(build(single(shared, "image:b")).encoders) == {"image:b"}
    with pytest.raises(ConfigError, match="omit share"):
        config(modalities=names, share=("image",), fusion="late")


@pytest.mark.parametrize("share", [(), ("text",)])
def test_attributions_of_a_text_leave_the_other_alone(share):
    """Its attributions sum to the change of the logit when only this text has zero embeddings."""
    model = config(modalities=("text:a", "text:b"), share=share)
    network = build(model).double().requires_grad_(False)
    rows = Rows(config(modalities=("text",)))
    batch = named(rows.batch(1), "text", "text:a") | named(rows.batch(3), "text", "text:b")
    found = attribution.over_input(network, batch, "text:a", lambda logits: logits[0, 0])
    features = network.encode(batch)
    encoder = network.encoder("text:a")
    encoder.embed.weight.zero_()
    zero = network.encode(batch)["text:a"]
    ends = [
        network.logits({**features, "text:a": each}, batch)[0, 0]
        for each in (features["text:a"], zero)
    ]
    assert float(found.sum()) == pytest.approx(float(ends[0] - ends[1]), abs=1e-3)


def test_series_of_different_variables(rows, save):
    for number, row in enumerate(rows):
        row |= {"ecg": [[number, 1.0]] * 3, "steps": [number] * 4}
    manifest = read_manifest(save(rows), {"series": ["ecg", "steps"]})
    processor = Processor.fit(manifest, range(20), DATA)
    assert processor.series_variables == (("series:ecg", 2), ("series:steps", 1))
    assert processor.scale_of("series:steps")[0] == (9.5, pytest.approx(np.arange(20).std()))
    batch = load_dataset(manifest, processor).batch([0, 19])
    assert batch["series:ecg"].shape == (2, 3, 2)
    assert batch["series:steps"].shape == (2, 4, 1)
    variables = processor.series_variables
    options = {"modalities": ("series:ecg", "series:steps"), "series_variables": variables}
    assert build(config(**options, variables=0))(batch).shape == (2, 1)
    with pytest.raises(ConfigError, match="cannot share an encoder"):
        build(config(**options, share=("series",)))


def test_columns_of_a_stream_have_as_many_steps(streams, save):
    for row in streams:
        row["mask"] = list(reversed(row["image"]))
    manifest = read_manifest(save(streams), {"image": "image,mask"})
    processor = Processor.fit(manifest, range(20), DATA)
    batch = load_dataset(manifest, processor).batch(range(4))
    assert batch["image:image"].shape == batch["image:mask"].shape == batch["steps"].shape
    streams[3]["mask"] = streams[3]["mask"][:2]
    with pytest.raises(ManifestError, match=r"line 4.*a list of 2 images.*as many steps"):
        read_manifest(save(streams), {"image": "image,mask"})


@pytest.mark.slow
def test_from_the_table_to_the_exported_model(pairs, save, tmp_path):
    pytest.importorskip("onnxruntime")
    import onnxruntime

    from fastrnn.fusion.export import run, to_inputs, to_onnx

    manifest = read(save(pairs))
    options = FitConfig(DATA, TINY | {"share": ("image",)}, TrainConfig(epochs=1, batch_size=8))
    done = fit(manifest, tmp_path / "run", options, console=Console(quiet=True))
    assert [each.name for each in done.trained] == [
        "fusion",
        *(f"{name} only" for name in reversed(INPUTS)),
        "late",
        "concat",
        "no recurrence",
    ]
    found = evaluate_run(tmp_path / "run")
    assert {each["modality"] for each in found["robustness"]} == set(INPUTS)
    explained = explain_run(tmp_path / "run", examples=2, split="train")
    for each in explained["examples"]:
        assert set(each["modalities"]) >= set(INPUTS) - {"image:back"}
        assert {token["input"] for token in each["tokens"]} == {"text:note", "text:title"}
        assert (tmp_path / "run" / each["picture"]).is_file()

    network, processor, run_config = load(tmp_path / "run")
    predictor = Predictor(network, processor, run_config)
    (records,) = predictor.predict(save(pairs))
    dataset = load_dataset(manifest, processor)
    batch = dataset.batch(range(20))
    session = onnxruntime.InferenceSession(
        str(to_onnx(network, processor, batch, tmp_path / "model.onnx"))
    )
    exported = run(session, to_inputs(network, batch))["probabilities"]
    told = [each["probabilities"]["yes"] for each in records]
    assert told == pytest.approx(exported.reshape(-1).tolist(), abs=1e-5)

    renamed = [{"f": row["front.side"], **row} for row in pairs]
    for row in renamed:
        del row["front.side"]
    (again,) = predictor.predict(save(renamed), columns={"image": ["f", "back"]})
    assert json.dumps(again) == json.dumps(records)
    with pytest.raises(ConfigError, match=r"no column 'front\.side'"):
        next(predictor.predict(save(renamed)))
