"""Multimodal models around a recurrent layer: encoders, fusion, data, training, command line.

    from fastrnn.fusion import FusionModel

    model = FusionModel.fit("data/manifest.csv")
    print(model.evaluate()["scores"])
    predictions = model.predict("data/new.csv")

`fit`, `load` and the other names are the lower-level API. docs/fusion.md is the guide.

Needs the extra: pip install 'fastrnn[fusion]'.
"""

from .. import _lazy

if _lazy.COMMAND:
    _lazy.provide(
        __name__,
        {
            "ConfigError": "errors",
            "DataConfig": "config",
            "DataError": "errors",
            "Examples": "data",
            "FusionError": "errors",
            "FusionModel": "api",
            "FusionNetwork": "network",
            "LateNetwork": "network",
            "Manifest": "manifest",
            "ManifestError": "errors",
            "MediaError": "errors",
            "ModelConfig": "config",
            "Preprocessor": "data",
            "Run": "experiment",
            "RunConfig": "config",
            "TrainConfig": "config",
            "build": "network",
            "fit": "experiment",
            "load": "checkpoint",
            "read_manifest": "manifest",
            "save": "checkpoint",
        },
    )
else:
    from .api import FusionModel
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
    "FusionModel",
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
