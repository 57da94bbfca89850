"""Every listed architecture of transformers loads what it saves, and trains what it should."""

from __future__ import annotations

import json

import pytest
import torch

from fastrnn.fusion import ModelConfig
from fastrnn.fusion.batch import Batch
from fastrnn.fusion.config.preprocessing import (
    AudioPreprocessing,
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
)
from fastrnn.fusion.config.pretrained import ARCHITECTURES, PretrainedConfig
from fastrnn.fusion.errors import ConfigError
from fastrnn.fusion.models.pretrained import pretrained_encoder

from .pretrained import TINY, randomised

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

DECLARED = {
    "audio": Preprocessing(audio=AudioPreprocessing()),
    "image": Preprocessing(image=ImagePreprocessing(16, 16)),
    "text": Preprocessing(text=TextPreprocessing()),
}
KINDS = [(modality, kind) for modality, kinds in ARCHITECTURES.items() for kind in kinds]


def batch_of(modality: str, kind: str) -> Batch:
    """Return four random rows."""
    if modality == "image":
        frames = torch.randint(0, 255, (3, 3, 16, 16), dtype=torch.uint8)
        return {"image_frames": frames, "image": torch.tensor([0, 2, 1, 0])}
    if modality == "text":
        tokens = torch.randint(3, 60, (4, 7))
        return {"text": tokens, "text_lengths": torch.tensor([7, 3, 1, 5])}
    shape = {"whisper": (4, 32, 8), "audio-spectrogram-transformer": (4, 32, 16)}
    lengths = torch.tensor([32, 20, 1, 9] if kind in shape else [200, 50, 1, 100])
    return {"audio": torch.randn(shape.get(kind, (4, 200))), "audio_lengths": lengths}


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "kind"), KINDS)
def test_every_trained_weight_has_a_gradient(modality, kind, tmp_path):
    config = transformers.AutoConfig.for_model(kind, **TINY[kind])
    randomised(transformers.AutoModel.from_config(config)).save_pretrained(tmp_path)
    architecture = json.loads((tmp_path / "config.json").read_text())
    for finetune in ("frozen", "lora", "last-1", "full"):
        pretrained = PretrainedConfig(
            "transformers", architecture, DECLARED[modality], (0.5,) * 3, (0.5,) * 3,
            finetune=finetune, lora_rank=2,
        )  # fmt: skip
        for steps in (False, True):
            model = ModelConfig(
                modalities=(modality,),
                fusion="init" if steps else "tokens",
                image_steps=modality == "image",
            )
            if (finetune, kind) == ("lora", "resnet"):
                with pytest.raises(ConfigError, match="needs linear layers"):
                    pretrained_encoder(model, modality, pretrained)
                continue
            encoder = pretrained_encoder(model, modality, pretrained)
            encoder.load_weights(tmp_path)
            batch = batch_of(modality, kind)
            found, lengths = encoder.train()(batch), encoder.lengths(batch)
            assert found.dim() == (3 if steps else 2)
            assert (len(found), found.shape[-1]) == (4, encoder.features)
            if lengths is not None:
                assert 1 <= lengths.min() <= lengths.max() <= found.shape[1]
            trained = {n: each for n, each in encoder.named_parameters() if each.requires_grad}
            assert bool(trained) == (finetune != "frozen") == found.requires_grad
            if trained:
                found.square().mean().backward()
            assert [name for name, each in trained.items() if each.grad is None] == []
