"""Pretrained encoders of audio: their steps, and what does not apply to their clips."""

from __future__ import annotations

import pytest
import torch

from fastrnn.fusion import TrainConfig
from fastrnn.fusion.errors import ConfigError
from fastrnn.fusion.evaluation.robustness import robustness
from fastrnn.fusion.training.augmentation import Augmentation

from .pretrained import ROWS, SAVED, prepared, save_wav2vec2, train

pytest.importorskip("transformers")


@pytest.mark.parametrize("kind", ["ast", "whisper"])
@torch.no_grad()
def test_steps_of_frames_are_those_of_transformers(kind, rows, save, tmp_path):
    """Clips are kept without their padding, and the steps of AST are the mean over the bands."""
    model = SAVED[kind][1](tmp_path / kind)
    encoders = {"audio": f"transformers:{tmp_path / kind}"}
    for row in rows:
        del row["text"]
    network, dataset = prepared(save(rows), encoders=encoders, fusion="parallel")
    encoder, batch = network.eval().encoder("audio").encoder, dataset.batch(ROWS)
    whole = {"ast": 32, "whisper": 100}[kind]
    assert 1 < int(batch["audio_lengths"].min()) < int(batch["audio_lengths"].max()) <= whole
    clips = []
    for row, length in enumerate(batch["audio_lengths"].tolist()):
        clip = batch["audio"][row, :length]
        clips.append(torch.cat([clip, clip[-1:].expand(whole - length, -1)]))
    inputs = torch.stack(clips)
    if kind == "ast":
        hidden = model(inputs).last_hidden_state
        expected = torch.stack([hidden[:, 2 + time :: 4] for time in range(4)], 1).mean(2)
    else:
        expected = model.encoder(inputs.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(encoder(batch), expected, rtol=1e-5, atol=1e-5)
    lengths = encoder.lengths(batch)
    assert lengths.tolist() == [
        max(1, (each - 8) // 8 + 1) if kind == "ast" else -(-each // 2)
        for each in batch["audio_lengths"].tolist()
    ]


@pytest.mark.parametrize("kind", ["ast", "whisper"])
@torch.no_grad()
def test_the_steps_of_a_stream_divide_the_clip_alone(kind, streams, save, tmp_path):
    """Not its padding, which is most of what the model reads."""
    SAVED[kind][1](tmp_path / kind)
    encoders = {"audio": f"transformers:{tmp_path / kind}"}
    network, dataset = prepared(save(streams), encoders=encoders, fusion="aligned")
    encoder, batch = network.eval().encoder("audio").encoder, dataset.batch(ROWS)
    found = encoder(batch)
    encoder.stream, encoder.returns_steps = False, True
    for row, (hidden, length) in enumerate(
        zip(encoder(batch), encoder.lengths(batch), strict=True)
    ):
        steps = int(batch["steps"][row].sum())
        expected = torch.nn.functional.adaptive_avg_pool1d(hidden[:length].t(), steps).t()
        torch.testing.assert_close(found[row, :steps], expected, rtol=1e-4, atol=1e-4)
    assert steps > 1


def test_a_row_may_lack_a_clip(rows, save, tmp_path):
    save_wav2vec2(tmp_path / "audio")
    for row in rows[:5]:
        row["audio"] = ""
    encoders = {"audio": f"transformers:{tmp_path / 'audio'}"}
    network, dataset = prepared(save(rows), encoders=encoders)
    assert network(dataset.batch([0, 1])).isfinite().all()


def test_waveforms_are_not_changed_in_time(manifest, tmp_path):
    """Neither by augmentation nor for robustness, which add log-mel frames of silence."""
    save_wav2vec2(tmp_path / "audio")
    network, dataset = prepared(manifest, encoders={"audio": f"transformers:{tmp_path / 'audio'}"})
    batch = dataset.batch(ROWS)
    change = Augmentation.of(TrainConfig(augment_images="none"), network.config, dataset.processor)
    found = change(batch, change.draw(len(ROWS), 0))
    assert torch.equal(found["audio"], batch["audio"])
    entries = robustness(network, network.config, dataset, 0.5)
    changes = {each["change"] for each in entries if each["modality"] == "audio"}
    assert changes == {"removed", "noise"}
    with pytest.raises(ConfigError, match="spec_augment masks log-mel frames"):
        train(
            manifest,
            tmp_path / "run",
            TrainConfig(epochs=1, spec_augment=True),
            encoders=dict(network.config.encoders),
        )
