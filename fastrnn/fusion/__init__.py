"""Multimodal models around a recurrent layer: encoders, fusion, data, training, command line.

    from fastrnn.fusion import FusionModel

    model = FusionModel(epochs=20).fit("data/manifest.csv")
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
            "Callback": "training.callbacks",
            "ConfigError": "errors",
            "DataConfig": "config.schema",
            "DataError": "errors",
            "FitConfig": "config.schema",
            "FusionDataset": "data.dataset",
            "FusionError": "errors",
            "FusionModel": "api",
            "FusionNetwork": "models.network",
            "LateNetwork": "models.network",
            "LoaderConfig": "config.schema",
            "Manifest": "data.manifest",
            "ManifestError": "errors",
            "MediaError": "errors",
            "ModelConfig": "config.schema",
            "Processor": "data.processor",
            "Run": "training.baselines",
            "RunConfig": "config.schema",
            "TrainConfig": "config.schema",
            "build": "models.network",
            "fit": "training.run",
            "load": "checkpoint",
            "load_dataset": "data.dataset",
            "read_manifest": "data.manifest",
            "save": "checkpoint",
        },
    )
else:
    from .api import FusionModel
    from .checkpoint import load, save
    from .config.schema import (
        DataConfig,
        FitConfig,
        LoaderConfig,
        ModelConfig,
        RunConfig,
        TrainConfig,
    )
    from .data.dataset import FusionDataset, load_dataset
    from .data.manifest import Manifest, read_manifest
    from .data.processor import Processor
    from .errors import ConfigError, DataError, FusionError, ManifestError, MediaError
    from .models.network import FusionNetwork, LateNetwork, build
    from .training.baselines import Run
    from .training.callbacks import Callback
    from .training.run import fit

__all__ = [
    "Callback",
    "ConfigError",
    "DataConfig",
    "DataError",
    "FitConfig",
    "FusionDataset",
    "FusionError",
    "FusionModel",
    "FusionNetwork",
    "LateNetwork",
    "LoaderConfig",
    "Manifest",
    "ManifestError",
    "MediaError",
    "ModelConfig",
    "Processor",
    "Run",
    "RunConfig",
    "TrainConfig",
    "build",
    "fit",
    "load",
    "load_dataset",
    "read_manifest",
    "save",
]
