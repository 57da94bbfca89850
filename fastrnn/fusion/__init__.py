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
            "DataConfig": "config.schema",
            "DataError": "errors",
            "Examples": "data.processor",
            "FusionError": "errors",
            "FusionModel": "api",
            "FusionNetwork": "models.network",
            "LateNetwork": "models.network",
            "Manifest": "data.manifest",
            "ManifestError": "errors",
            "MediaError": "errors",
            "ModelConfig": "config.schema",
            "Preprocessor": "data.processor",
            "Run": "training.run",
            "RunConfig": "config.schema",
            "TrainConfig": "config.schema",
            "build": "models.network",
            "fit": "training.run",
            "load": "checkpoint",
            "read_manifest": "data.manifest",
            "save": "checkpoint",
        },
    )
else:
    from .api import FusionModel
    from .checkpoint import load, save
    from .config.schema import DataConfig, ModelConfig, RunConfig, TrainConfig
    from .data.manifest import Manifest, read_manifest
    from .data.processor import Examples, Preprocessor
    from .errors import ConfigError, DataError, FusionError, ManifestError, MediaError
    from .models.network import FusionNetwork, LateNetwork, build
    from .training.run import Run, fit

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
