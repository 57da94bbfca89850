"""Backbones of pretrained encoders: create, load and partly train models of transformers and timm.

A saved configuration is untrusted. Only known architectures are created, without the settings that
make a library download or execute code. Weights are read from safetensors.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..config.pretrained import ARCHITECTURES, PretrainedConfig
from ..errors import ConfigError

# Attention kernels and quantisers may come from the Hub; auto_map names remote code.
_UNSAFE = re.compile(
    r"auto_map|quantization_config|.*_implementation(_internal)?|.*timm.*|use_kernels"
)
# Random masks of the inputs are drawn by numpy, whose state no checkpoint has. A layer that is
# dropped has no gradient, which several processes would wait for.
_TRAINING = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}
_BLOCKS = re.compile(r"(.*\.)?(blocks|layer|layers|stages)")
# WavLM's attention reads the weights of these layers, so adapters would have no effect.
_NO_ADAPTERS = {"wavlm": ("k_proj", "out_proj", "q_proj", "v_proj")}
_UNUSED = ("mask_token", "masked_spec_embed")  # parameters of their pretraining


def make_backbone(modality: str, config: PretrainedConfig) -> nn.Module:
    """Create the architecture with random weights.

    Raises:
        ConfigError: the library is not installed, or it cannot create the architecture.
    """
    make = _timm if config.library == "timm" else _transformers
    try:
        backbone = make(modality, config.architecture)
    except ImportError as error:
        raise missing(error, config.library) from None
    except ConfigError:
        raise
    except Exception as error:  # the configuration is untrusted
        reason = " ".join(str(error).split())
        raise ConfigError(f"{config.library} cannot create the {modality} encoder: {reason}") from (
            error
        )
    _select_trained(backbone, config)
    return backbone


def missing(error: ImportError, package: str) -> ConfigError:
    """Return the error of a package that is not installed, or that cannot be imported."""
    return ConfigError(
        f"pretrained encoders need {error.name or package} ({error}): "
        "pip install 'fastrnn[fusion,pretrained]'"
    )


def _transformers(modality: str, architecture: Mapping[str, Any]) -> nn.Module:
    from transformers import AutoModel

    model = AutoModel.from_config(_transformers_config(modality, architecture))
    model = model.float()
    if architecture["model_type"] == "whisper":
        model = model.encoder
    pooler = getattr(model, "pooler", None)
    if pooler is not None and any(True for _ in pooler.parameters()):
        model.pooler = None  # the steps are pooled
    if hasattr(model, "head") and architecture["model_type"] == "siglip_vision_model":
        model.head, model.use_head = None, False
    return model


def _transformers_config(modality: str, architecture: Mapping[str, Any]) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = architecture.get("model_type")
    if kind not in ARCHITECTURES.get(modality, ()):
        raise ConfigError(f"unsupported architecture {kind!r} for {modality}")
    safe = {name: each for name, each in architecture.items() if not _UNSAFE.fullmatch(name)}
    safe |= {name: value for name, value in _TRAINING.items() if name in safe}
    if kind in ("wav2vec2", "hubert", "wavlm"):
        safe |= _TRAINING  # their defaults differ
    return CONFIG_MAPPING[kind].from_dict(safe)


def _timm(modality: str, architecture: Mapping[str, Any]) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError:
        raise
    except Exception as error:  # torchvision raises RuntimeError
        raise ConfigError(
            f"timm cannot be imported ({error}); install a torchvision that is built for torch "
            f"{torch.__version__}"
        ) from None

    name, given = architecture.get("architecture"), architecture.get("model_args") or {}
    if modality != "image" or not isinstance(name, str) or not timm.is_model(name):
        raise ConfigError(f"timm has no {modality} model {name!r}")
    reserved = {*inspect.signature(timm.create_model).parameters, "features_only", "out_indices"}
    for each in given:
        if each in reserved or each.startswith("pretrained"):
            raise ConfigError(f"model_args of the model must not contain {each}")
    return timm.create_model(name, pretrained=False, **{**given, "num_classes": 0})


def load_weights(backbone: nn.Module, config: PretrainedConfig, folder: Path) -> None:
    """Load a backbone's pretrained weights.

    Raises:
        ConfigError: the folder has no safetensors, or they lack weights of the backbone.
    """
    try:
        if config.library == "timm":
            found = load_file(folder / "model.safetensors")
        else:
            found = _loaded(config, folder)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{folder}: no weights in safetensors, which alone are read ({reason})"
        ) from None
    own = backbone.state_dict()
    # Adapters wrap a layer, and move its weights.
    wanted = {name.replace(".base_layer.", "."): name for name in own if "lora_" not in name}
    lacking = sorted(name for name in wanted if name not in found)
    if lacking:
        raise ConfigError(f"{folder}: the weights lack {lacking[0]}, so they are of another model")
    with torch.no_grad():
        for name, key in wanted.items():
            if own[key].shape != found[name].shape:
                raise ConfigError(f"{folder}: {name} has another shape than config.json says")
            own[key].copy_(found[name])


def _loaded(config: PretrainedConfig, folder: Path) -> dict[str, Tensor]:
    """Read the weights by transformers, which knows the names in checkpoints of other heads."""
    from transformers import AutoModel

    kind = config.architecture["model_type"]
    modality = next(each for each, kinds in ARCHITECTURES.items() if kind in kinds)
    with _quiet():
        model, report = AutoModel.from_pretrained(
            folder,
            config=_transformers_config(modality, config.architecture),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    prefix = "encoder." if kind == "whisper" else ""
    return {
        name.removeprefix(prefix): each
        for name, each in model.state_dict().items()
        if name.startswith(prefix) and name not in report["missing_keys"]
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the reports of transformers: the weights are compared with the backbone's."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def blocks_of(backbone: nn.Module) -> nn.ModuleList | nn.Sequential:
    """Return the blocks of a backbone, first to last.

    Raises:
        ConfigError: it has none.
    """
    for name, module in backbone.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and _BLOCKS.fullmatch(name):
            return module
    raise ConfigError("the encoder has no list of blocks; choose finetune frozen or full")


def _select_trained(backbone: nn.Module, config: PretrainedConfig) -> None:
    """Freeze all weights except those that are trained, and add adapters."""
    full = config.finetune == "full"
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(full and not name.endswith(_UNUSED))
    if config.finetune == "lora":
        kind = config.architecture.get("model_type", "")
        _add_adapters(backbone, config.lora_rank, _NO_ADAPTERS.get(kind, ()))
    elif config.blocks:
        blocks = blocks_of(backbone)
        if config.blocks > len(blocks):
            raise ConfigError(f"finetune {config.finetune}: the encoder has {len(blocks)} blocks")
        for block in list(blocks)[-config.blocks :]:
            block.requires_grad_(True)


def _add_adapters(backbone: nn.Module, rank: int, without: tuple[str, ...]) -> None:
    """Add low-rank adapters to the linear layers of the blocks. Hu et al., LoRA, 2021.

    Args:
        without: the ends of the names of layers that get none.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing(error, "peft") from None
    inside = {id(each) for each in blocks_of(backbone).modules()}
    layers = [
        name
        for name, each in backbone.named_modules()
        if isinstance(each, nn.Linear) and id(each) in inside and not name.endswith(without)
    ]
    if not layers:
        raise ConfigError("finetune lora needs linear layers, which the encoder has not")
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers)
    inject_adapter_in_model(adapters, backbone)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)
