"""Multimodal models around a recurrent layer: encoders, fusion, data, training, command line.

    from fastrnn.fusion import fit, load, read_manifest

    run = fit(read_manifest("data/manifest.csv"), Path("runs/mine"))
    model, preprocessor, config = load("runs/mine")

Needs the extra: pip install 'fastrnn[fusion]'.
"""

from .checkpoint import load, save
from .config import DataConfig, ModelConfig, RunConfig, TrainConfig
from .data import Examples, Preprocessor
from .errors import ConfigError, DataError, FusionError, ManifestError, MediaError
from .experiment import Run, fit
from .manifest import Manifest, read_manifest
from .network import FusionNetwork, LateNetwork, build

__all__ = [
    "ConfigError",
    "DataConfig",
    "DataError",
    "Examples",
    "FusionError",
    "FusionNetwork",
    "LateNetwork",
    "Manifest",
    "ManifestError",
    "MediaError",
    "ModelConfig",
    "Preprocessor",
    "Run",
    "RunConfig",
    "TrainConfig",
    "build",
    "fit",
    "load",
    "read_manifest",
    "save",
]
