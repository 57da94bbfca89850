"""Pretrained folders that cannot be used, or must not be trusted."""

from __future__ import annotations

import json
import sys

import pytest

from fastrnn.fusion.config.preprocessing import AudioPreprocessing
from fastrnn.fusion.config.pretrained_files import read_pretrained
from fastrnn.fusion.errors import ConfigError

from .pretrained import (
    edited,
    prepared,
    save_bert,
)

pytest.importorskip("transformers")


def test_invalid_folders(tmp_path):
    folder = tmp_path / "text"
    save_bert(folder)
    options = {"encoders": {"text": f"transformers:{folder}"}}
    with pytest.raises(ConfigError, match="finetune: image has no pretrained encoder"):
        read_pretrained(options | {"finetune": {"image": "full"}})
    edited(folder / "config.json", model_type="timm_wrapper")
    with pytest.raises(ConfigError, match="unsupported architecture 'timm_wrapper' for text"):
        read_pretrained(options)
    edited(folder / "config.json", model_type="bert")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="contains no tokenizer"):
        read_pretrained(options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "has no attribute 'get'"),
        ('{"size": {"shortest_edge": 32}, "crop_pct": 0}', "division by zero"),
    ],
)
def test_a_damaged_preprocessor(tmp_path, text, said):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_pretrained({"encoders": {"image": f"transformers:{tmp_path}"}})


@pytest.mark.parametrize(
    ("model", "extractor", "said"),
    [
        (
            {"model_type": "whisper", "max_source_positions": 50},
            {"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 2},
            "clips of 200 frames in preprocessor_config.json, but the model reads 100",
        ),
        (
            {"model_type": "audio-spectrogram-transformer", "max_length": 512},
            {"feature_extractor_type": "ASTFeatureExtractor"},
            "clips of 1024 frames in preprocessor_config.json, but the model reads 512",
        ),
    ],
)
def test_an_extractor_of_another_model(tmp_path, model, extractor, said):
    (tmp_path / "config.json").write_text(json.dumps(model))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(extractor))
    with pytest.raises(ConfigError, match=said):
        read_pretrained({"encoders": {"audio": f"transformers:{tmp_path}"}})


@pytest.mark.parametrize("setting", [{"chunk_length": 1500}, {"max_length": -1}, {"n_fft": "x"}])
def test_an_extractor_takes_little_memory(setting):
    extractor = {"feature_extractor_type": "WhisperFeatureExtractor"} | setting
    with pytest.raises(ConfigError, match=rf"extractor\.{next(iter(setting))}"):
        AudioPreprocessing(extractor=extractor, bands=80)


def test_pickled_weights_are_not_read(manifest, tmp_path):
    folder = tmp_path / "text"
    save_bert(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no weights in safetensors"):
        prepared(manifest, encoders={"text": f"transformers:{folder}"})


def test_an_untrusted_architecture_names_no_code(manifest, tmp_path):
    """Neither a kernel of the Hub nor remote code: the settings that name them are not read."""
    folder = tmp_path / "text"
    save_bert(folder)
    edited(
        folder / "config.json",
        attn_implementation="someone/kernel",
        _attn_implementation="someone/kernel",
        auto_map={"AutoModel": "someone/code--Model"},
        quantization_config={"quant_method": "bitsandbytes"},
    )
    network, _ = prepared(manifest, encoders={"text": f"transformers:{folder}"})
    assert network.encoder("text").encoder.backbone.config._attn_implementation == "sdpa"


def test_a_package_that_is_not_installed(manifest, tmp_path, monkeypatch):
    save_bert(tmp_path / "text")
    options = {"encoders": {"text": f"transformers:{tmp_path / 'text'}"}}
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"need peft.*pip install 'fastrnn\[fusion,pretrained\]'"):
        prepared(manifest, finetune={"text": "lora"}, **options)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="need transformers"):
        prepared(manifest, **options)
