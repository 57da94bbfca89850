"""Tiny pretrained models, saved as their users save them, and networks that use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from fastrnn.fusion import (
    DataConfig,
    FitConfig,
    Manifest,
    Processor,
    TrainConfig,
    fit,
    load_dataset,
)
from fastrnn.fusion import read_manifest as read
from fastrnn.fusion.config.pretrained_files import read_pretrained
from fastrnn.fusion.training.baselines import configure
from fastrnn.fusion.training.declared import declarations, saved
from fastrnn.fusion.training.transfer import prepare

DATA = DataConfig(image_size=8, sample_rate=8000, mels=12, max_tokens=6)
OPTIONS = {"width": 8, "hidden": 8, "conv": (4, 8), "grid": 2}
ROWS = range(20)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "word", "and", "another", "一", "cat", "dog"]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def randomised(model: nn.Module, seed: int = 0) -> Any:
    """Give every weight a random value, so that no part has only a small effect."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def save_vit(folder: Path, **more: Any) -> Any:
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    model = randomised(ViTModel(ViTConfig(image_size=16, patch_size=8, **SIZES, **more)))
    model.save_pretrained(folder)
    processor = ViTImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
    )
    processor.save_pretrained(folder)
    return model


def save_resnet(folder: Path) -> Any:
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    model = randomised(ResNetModel(config))
    model.save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875).save_pretrained(folder)
    return model


def save_bert(folder: Path) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=12, **SIZES)
    model = randomised(BertForMaskedLM(config))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({each: n for n, each in enumerate(WORDS)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=9)  # as some models save it
    tokenizer.save(str(folder / "tokenizer.json"))
    return model.bert


def save_wav2vec2(folder: Path, norm: str = "group") -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(
        conv_dim=[8, 8], conv_kernel=[10, 3], conv_stride=[5, 2], num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, feat_extract_norm=norm, **SIZES,
    )  # fmt: skip
    model = randomised(Wav2Vec2Model(config))
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    return model


def save_ast(folder: Path) -> Any:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    config = ASTConfig(
        max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8, **SIZES
    )
    model = randomised(ASTModel(config))
    model.save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=16, max_length=32).save_pretrained(folder)
    return model


def save_whisper(folder: Path) -> Any:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=24,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=24, vocab_size=20,
        num_mel_bins=8, max_source_positions=50, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    model = randomised(WhisperModel(config))
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    return model


def save_timm(folder: Path, name: str, **arguments: Any) -> Any:
    import timm
    from timm.models import save_for_hf

    model = randomised(timm.create_model(name, num_classes=3, **arguments))
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return model


_IMAGE = {**SIZES, "image_size": 16, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_WAVE = {
    **SIZES, "conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2],
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
_TEXT = {**SIZES, "vocab_size": 60}
TINY: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {
        **SIZES, "max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8,
        "time_stride": 8,
    },
    "beit": _IMAGE, "deit": _IMAGE, "dinov2": _IMAGE, "dinov2_with_registers": _IMAGE,
    "siglip_vision_model": _IMAGE, "vit": _IMAGE,
    "convnext": {**_STAGES, "num_stages": 2}, "convnextv2": {**_STAGES, "num_stages": 2},
    "resnet": {**_STAGES, "embedding_size": 8},
    "bert": _TEXT, "deberta-v2": _TEXT, "mpnet": _TEXT, "roberta": _TEXT, "xlm-roberta": _TEXT,
    "distilbert": {"vocab_size": 60, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    "electra": {**_TEXT, "embedding_size": 16},
    "modernbert": {
        **_TEXT, **_SPECIAL, "num_hidden_layers": 3, "cls_token_id": 1, "sep_token_id": 2
    },
    "hubert": _WAVE, "wav2vec2": _WAVE, "wavlm": _WAVE,
    "whisper": {
        **_SPECIAL, "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
        "encoder_ffn_dim": 24, "decoder_layers": 1, "decoder_attention_heads": 2,
        "decoder_ffn_dim": 24, "vocab_size": 60, "decoder_start_token_id": 1, "num_mel_bins": 8,
        "max_source_positions": 16,
    },
}  # fmt: skip


SAVED = {
    "ast": ("audio", save_ast),
    "bert": ("text", save_bert),
    "resnet": ("image", save_resnet),
    "vit": ("image", save_vit),
    "wav2vec2": ("audio", save_wav2vec2),
    "whisper": ("audio", save_whisper),
}


def prepared(manifest: Path | Manifest, **options):
    """Return the network before training, with pretrained weights, and the rows that it reads."""
    table = manifest if isinstance(manifest, Manifest) else read(manifest)
    options = OPTIONS | options
    options["pretrained"] = read_pretrained(options)
    task = table.task.fit(table.labels(ROWS))
    known = Processor(DATA, task, table.modalities, table.stream)
    declared = declarations(configure(table, known, options))
    processor = Processor.fit(table, ROWS, DATA, preprocessing=declared)
    options["pretrained"] = saved(options["pretrained"])
    network, _ = prepare(configure(table, processor, options), TrainConfig())
    return network, load_dataset(table, processor)


def train(manifest: Path, folder: Path, training=None, **options):
    training = training or TrainConfig(epochs=1, batch_size=8)
    config = FitConfig(DATA, OPTIONS | options, training, baselines=False)
    return fit(read(manifest), folder, config, console=Console(quiet=True))


def edited(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
