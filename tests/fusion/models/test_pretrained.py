"""Pretrained encoders, compared with transformers called directly, and runs that use them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from fastrnn.fusion import (
    FitConfig,
    ModelConfig,
    Processor,
    RunConfig,
    TrainConfig,
    fit,
    load,
    load_dataset,
)
from fastrnn.fusion import read_manifest as read
from fastrnn.fusion.cli import main
from fastrnn.fusion.errors import ConfigError
from fastrnn.fusion.explain import attribution
from fastrnn.fusion.explain.explainer import Explainer
from fastrnn.fusion.export import to_onnx
from fastrnn.fusion.inference.loop import InferenceConfig
from fastrnn.fusion.models.pretrained import PretrainedText
from fastrnn.fusion.models.views import view
from fastrnn.fusion.training.feature_cache import is_cached
from fastrnn.fusion.training.run import resume

from .pretrained import (
    DATA,
    OPTIONS,
    ROWS,
    SAVED,
    WORDS,
    prepared,
    save_bert,
    save_vit,
    save_wav2vec2,
    train,
)

pytest.importorskip("transformers")


def whisper_frames(wave):
    """Return the frames of 10 ms whose window of 25 ms reaches a clip at 16 kHz, and one more."""
    return min(-(-(len(wave) + 200) // 160) + 1, 100)


def expected_features(kind, model, rows, folder, pretrained):
    """Return the features of each row, by transformers alone."""
    from transformers import AutoFeatureExtractor, ConvNextImageProcessorPil, ViTImageProcessorPil

    found = []
    for row in rows:
        if kind in ("vit", "resnet"):
            make = ViTImageProcessorPil if kind == "vit" else ConvNextImageProcessorPil
            image = Image.open(folder / row["image"]).convert("RGB")
            pixels = make.from_pretrained(pretrained)(image, return_tensors="pt")
            hidden = model(**pixels).last_hidden_state
            found.append(hidden[0, 0] if kind == "vit" else hidden.mean((2, 3))[0])
        elif kind == "bert":
            words = {"一": 7, "word": 4, "and": 5, "another": 6}
            ids = [2, *[words[each] for each in row["text"].split()][:4], 3]
            found.append(model(torch.tensor([ids])).last_hidden_state[0].mean(0))
        else:
            wave, rate = soundfile.read(folder / row["audio"], dtype="float32")
            extract = AutoFeatureExtractor.from_pretrained(pretrained)
            if kind != "wav2vec2":
                spectrum = np.fft.rfft(wave)  # doubles the rate
                wave, rate = np.fft.irfft(spectrum, 2 * len(wave)).astype(np.float32) * 2, 16000
            inputs = extract(wave, sampling_rate=rate, return_tensors="pt")
            encoder = model.encoder if kind == "whisper" else model
            hidden = encoder(**inputs).last_hidden_state[0]
            if kind == "whisper":  # with its padding, which the mean leaves out
                hidden = hidden[: -(-whisper_frames(wave) // 2)]
            found.append((hidden[:2] if kind == "ast" else hidden).mean(0))
    return torch.stack(found)


@pytest.mark.parametrize("kind", sorted(SAVED))
@torch.no_grad()
def test_features_are_those_of_transformers(kind, rows, manifest, tmp_path):
    modality, make = SAVED[kind]
    model = make(tmp_path / kind)
    expected = expected_features(kind, model, rows, tmp_path, tmp_path / kind)
    network, dataset = prepared(manifest, encoders={modality: f"transformers:{tmp_path / kind}"})
    encoder = network.eval().encoder(modality).encoder  # without the projection to the width
    found = encoder(view(dataset.batch(ROWS), modality))
    # float32 sums of at most 400 terms through two layers; a logarithm of quiet bands amplifies the
    # rounding of a resampled clip
    bound = 1e-3 if kind in ("ast", "whisper") else 1e-4
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)
    assert found.std(0).min() > 0  # rows differ


@torch.no_grad()
def test_padding_changes_nothing(manifest, tmp_path):
    """Also for the two ways in which wav2vec2 normalises, and for an encoder that returns steps."""
    save_bert(tmp_path / "bert")
    for norm in ("layer", "group"):
        save_wav2vec2(tmp_path / norm, norm)
        encoders = {
            "audio": f"transformers:{tmp_path / norm}",
            "text": f"transformers:{tmp_path / 'bert'}",
        }
        network, dataset = prepared(manifest, encoders=encoders, fusion="parallel")
        together = network.eval()(dataset.batch(ROWS))
        alone = torch.cat([network(dataset.batch([row])) for row in ROWS])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_one_of_two_texts_is_read_by_a_pretrained_encoder(rows, save, tmp_path):
    save_bert(tmp_path / "bert")
    for row in rows:
        row["title"] = f"cat and {row['text']}"
    encoders = {"text:title": f"transformers:{tmp_path / 'bert'}"}
    table = read(save(rows), {"text": ["text", "title"]})
    network, dataset = prepared(table, encoders=encoders)
    dataset.processor.save(tmp_path)
    loaded = load_dataset(table, Processor.load(tmp_path))
    for each in (dataset, loaded):
        assert each[1]["text:title"].tolist() == [2, 8, 5, 7, 4, 3]  # cat and 一 word
        assert each[1]["text:text"].max() > len(WORDS)  # the learned tokenizer
    assert torch.equal(network.eval()(dataset.batch(ROWS)), network(loaded.batch(ROWS)))
    shared = {"text": f"transformers:{tmp_path / 'bert'}"}
    network, dataset = prepared(table, encoders=shared, share=("text",))
    assert network(dataset.batch(ROWS)).isfinite().all()
    assert dataset.processor.tokenizer is None
    config = replace(network.config, fusion="parallel")  # the shared encoder returns steps
    assert not any(is_cached(config, TrainConfig(), name) for name in config.modalities)


PREDICT = """
import json, sys
from fastrnn.fusion import FusionModel
model = FusionModel.from_pretrained(sys.argv[1])
print(json.dumps(model.predict_proba(sys.argv[2])["yes"].tolist()))
"""


@pytest.mark.slow
def test_a_run_needs_neither_the_folder_nor_the_hub(manifest, tmp_path):
    makers = {"image": save_vit, "text": save_bert, "audio": save_wav2vec2}
    models = {name: make(tmp_path / name) for name, make in makers.items()}
    encoders = {name: f"transformers:{tmp_path / name}" for name in makers}
    run = train(manifest, tmp_path / "run", encoders=encoders)
    for name in makers:
        shutil.rmtree(tmp_path / name)
    network, processor, _ = load(run.folder)
    frozen = network.encoder("image").encoder.backbone.state_dict()
    assert frozen
    for name, value in frozen.items():
        assert torch.equal(value, models["image"].get_parameter(name))
    expected = network(load_dataset(read(manifest), processor).batch(ROWS)).sigmoid()
    found = subprocess.run(
        [sys.executable, "-c", PREDICT, run.folder, manifest],
        capture_output=True, check=True, text=True, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    probabilities = torch.tensor(json.loads(found.stdout.splitlines()[-1]))
    torch.testing.assert_close(probabilities, expected.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_cached_features_change_nothing(manifest, tmp_path):
    save_vit(tmp_path / "image", hidden_dropout_prob=0.5)
    save_bert(tmp_path / "text")
    encoders = {name: f"transformers:{tmp_path / name}" for name in ("image", "text")}
    runs = [
        train(
            manifest,
            tmp_path / f"run-{cache}",
            TrainConfig(epochs=2, batch_size=8, cache_features=cache, augment_images="none"),
            encoders=encoders,
        )
        for cache in (False, True)
    ]
    weights = [load_file(run.folder / "model.safetensors") for run in runs]
    for name, value in weights[0].items():
        # Adam divides tiny gradients by their size, which amplifies rounding
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)
    for before, after in zip(*(run.trained[0].epochs for run in runs), strict=True):
        assert before["val"].loss == pytest.approx(after["val"].loss, rel=1e-4)


def changed(network, before) -> set[str]:
    now = network.state_dict()
    return {name for name, value in before.items() if not torch.equal(now[name], value)}


@pytest.mark.parametrize("finetune", ["frozen", "last-1", "lora", "full"])
def test_what_is_trained(finetune, manifest, tmp_path):
    if finetune == "lora":
        pytest.importorskip("peft")
    save_bert(tmp_path / "text")
    network, dataset = prepared(
        manifest,
        encoders={"text": f"transformers:{tmp_path / 'text'}"},
        finetune={"text": finetune},
        lora_rank=2,
    )
    before = {name: each.clone() for name, each in network.state_dict().items()}
    learned = [each for each in network.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(learned, 0.01)  # its steps do not depend on a gradient's size
    for _ in range(2):  # LoRA's first factor has no gradient in the first step
        batch = dataset.batch(ROWS)
        loss = dataset.processor.task.loss(network.train()(batch), batch["label"], None)
        loss.backward()
        optimizer.step()
        network.zero_grad()
    names = {name for name in changed(network, before) if "backbone" in name}
    backbone = "encoders.text.encoder.backbone."
    expected = {
        "frozen": lambda name: False,
        "last-1": lambda name: ".layer.1." in name,
        "lora": lambda name: "lora_" in name,
        "full": lambda name: True,
    }[finetune]
    wanted = {name for name in before if name.startswith(backbone) and expected(name)}
    # Keys' biases cancel in the softmax, and unused embeddings have no gradient.
    assert {each for each in wanted if "key.bias" not in each} == {
        each for each in names if "key.bias" not in each
    }
    assert names <= wanted
    if finetune == "lora":
        adapters = sum(before[name].numel() for name in wanted)
        assert adapters < 0.25 * sum(before[each].numel() for each in before if backbone in each)


def test_a_shared_model_does_not_name_the_folder():
    encoders = {"image": "transformers:/home/ann/vit", "text": "mine"}
    model = ModelConfig(modalities=("image", "text"), encoders=encoders)
    config = RunConfig(model, TrainConfig(), manifest="/home/ann/m.csv").without_places()
    assert "/home" not in json.dumps(config.to_json())
    assert dict(config.model.encoders) == {"image": "transformers:vit", "text": "mine"}


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_features_of_augmented_images_are_not_cached(augment, manifest, tmp_path):
    save_vit(tmp_path / "image")
    network, _ = prepared(manifest, encoders={"image": f"transformers:{tmp_path / 'image'}"})
    training = TrainConfig(augment_images=augment)
    assert is_cached(network.config, training, "image") == (augment == "none")


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "chosen"), [(True, "none"), (False, "crop")])
def test_auto_keeps_the_features_of_frozen_images(cache, chosen, manifest, tmp_path):
    """From other weights they are not cached, so auto looks at the images."""
    save_vit(tmp_path / "image")
    encoders = {"image": f"transformers:{tmp_path / 'image'}"}
    training = TrainConfig(epochs=1, batch_size=8, cache_features=cache)
    run = train(manifest, tmp_path / "run", training, encoders=encoders)
    assert run.config.train.augment_images == chosen  # random colours count as photographs
    config = FitConfig(
        DATA, OPTIONS | {"encoders": encoders}, training, baselines=False, init_from=str(run.folder)
    )
    run = fit(read(manifest), tmp_path / "next", config, console=Console(quiet=True))
    assert run.config.train.augment_images == "crop"


@pytest.mark.slow
def test_the_linear_head_reads_the_cached_features(manifest, tmp_path, monkeypatch):
    save_bert(tmp_path / "text")
    encode, seen = PretrainedText.encode, []
    monkeypatch.setattr(
        PretrainedText, "encode", lambda self, batch: seen.append(batch) or encode(self, batch)
    )
    options = OPTIONS | {"encoders": {"text": f"transformers:{tmp_path / 'text'}"}}
    config = FitConfig(DATA, options, TrainConfig(epochs=1, batch_size=8))
    run = fit(read(manifest), tmp_path / "run", config, console=Console(quiet=True))
    assert "frozen features, linear head" in {each.config.name for each in run.classical}
    assert sum(map(len, (each["text"] for each in seen))) == 4  # the distinct texts


@pytest.mark.slow
def test_ngrams_are_attributed_to_the_tokens_of_the_encoder(manifest, tmp_path):
    save_bert(tmp_path / "text")
    save_wav2vec2(tmp_path / "audio")
    encoders = {name: f"transformers:{tmp_path / name}" for name in ("audio", "text")}
    network, dataset = prepared(manifest, encoders=encoders)
    for each in network.readouts["text_ngrams"].parameters():
        torch.nn.init.normal_(each)
    network.eval().requires_grad_(False)
    explainer = Explainer(network, dataset, tmp_path, InferenceConfig())
    (tmp_path / "pictures").mkdir()
    found = explainer.explain_row(0, 1)
    batch = explainer.batch([0])
    select = dataset.processor.task.explained(network(batch), batch["label"]).logit
    alone = attribution.over_input(network, batch, "text", select)
    ngrams = attribution.over_ngrams(network, batch, "text", select)
    values = [each["attribution"] for each in found["tokens"]]
    assert found["tokens"][0]["name"] == "[CLS]"
    assert values[0] == pytest.approx(float(alone[0]), abs=1e-5)  # it is no part of the text
    assert sum(values) == pytest.approx(float(alone.sum() + ngrams.sum()), abs=1e-4)
    assert (tmp_path / found["picture"]).is_file()


@pytest.mark.slow
def test_an_exported_run_has_no_recipe(manifest, tmp_path):
    """It would resize images, and read texts by the learned tokenizer."""
    pytest.importorskip("onnxruntime")
    save_vit(tmp_path / "image")
    run = train(
        manifest, tmp_path / "run", encoders={"image": f"transformers:{tmp_path / 'image'}"}
    )
    assert main(["export", str(run.folder)]) == 0
    assert {each.name for each in run.folder.glob("model.*")} == {"model.onnx", "model.safetensors"}


@pytest.mark.slow
def test_export(manifest, tmp_path):
    pytest.importorskip("onnxruntime")
    save_vit(tmp_path / "image")
    save_bert(tmp_path / "text")
    encoders = {name: f"transformers:{tmp_path / name}" for name in ("image", "text")}
    network, dataset = prepared(manifest, encoders=encoders)
    # It compares the outputs of the file.
    path = to_onnx(network, dataset.processor, dataset.batch(range(4)), tmp_path / "model.onnx")
    assert path.stat().st_size > 0
    save_wav2vec2(tmp_path / "audio")
    network, dataset = prepared(manifest, encoders={"audio": f"transformers:{tmp_path / 'audio'}"})
    with pytest.raises(ConfigError, match="encoder of audio cannot be exported"):
        to_onnx(network, dataset.processor, dataset.batch(range(4)), tmp_path / "audio.onnx")


class Killed(Exception):
    """Stops a run, as SIGKILL does, after an epoch."""


@pytest.mark.slow
@pytest.mark.parametrize("finetune", ["frozen", "last-1"])
def test_a_resumed_run_is_the_same(finetune, manifest, tmp_path):
    """Also with a learning rate of its own for pretrained weights, and with cached features."""
    save_bert(tmp_path / "text")
    options = OPTIONS | {"encoders": {"text": f"transformers:{tmp_path / 'text'}"}}
    options["finetune"] = {"text": finetune}
    config = FitConfig(DATA, options, TrainConfig(epochs=2, batch_size=8), baselines=False)
    table, quiet = read(manifest), Console(quiet=True)

    class Kill:
        def on_epoch_end(self, metrics):
            if metrics["epoch"] == 2:
                raise Killed

    whole = fit(table, tmp_path / "whole", config, console=quiet)
    with pytest.raises(Killed):
        fit(table, tmp_path / "run", config, console=quiet, callbacks=[Kill()])
    resumed = resume(tmp_path / "run", quiet)
    expected, found = (load_file(run.folder / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert [each["val"] for each in resumed.trained[0].epochs] == [
        each["val"] for each in whole.trained[0].epochs
    ]
