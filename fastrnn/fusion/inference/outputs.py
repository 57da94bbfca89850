"""The outputs of a run's scikit-learn baselines for the run's own val and test rows.

| file | |
|---|---|
| models/SLUG/baseline.json | the name, and how it was trained: BaselineConfig |
| models/SLUG/outputs.safetensors | for each split, `Predictions.output` of its rows |

A scikit-learn model can only be saved with pickle, and loading a pickle executes its code.
Therefore the models are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from .. import files
from ..checkpoint import MODELS, slug
from ..config import parser
from ..config.parser import Checked, Range
from ..data.dataset import FusionDataset
from ..data.fingerprint import fingerprint
from ..errors import ConfigError
from ..tasks import Predictions

CONFIG, OUTPUTS = "baseline.json", "outputs.safetensors"


@dataclass(frozen=True)
class BaselineConfig(Checked):
    """What is known of a baseline.

    Attributes:
        train_rows: the number of rows that it was trained on.
        seconds: the time of training and prediction.
        rows: split -> the fingerprint of its rows.
        C: the inverse regularisation strength of a linear model, chosen on the val rows.
        network: whether it reads features of the main network.
    """

    name: str
    train_rows: Annotated[int, Range(0)]
    seconds: Annotated[float, Range(0)]
    rows: dict[str, str]
    C: Annotated[float, Range(above=0)] | None = None
    network: bool = False


@dataclass(frozen=True)
class Baseline:
    """A baseline and its outputs: split -> `Predictions.output`."""

    config: BaselineConfig
    outputs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the baseline."""
        return self.config.name

    def predictions(self, dataset: FusionDataset, split: str) -> Predictions | None:
        """Return the predictions for the rows of a split; None if these are other rows.

        Raises:
            ConfigError: the outputs do not fit the problem type.
        """
        if split not in self.outputs or self.config.rows.get(split) != rows_of(dataset):
            return None
        task, output = dataset.processor.task, self.outputs[split].double()
        wanted = task.output(torch.zeros(len(dataset), task.num_outputs)).shape
        if output.shape != wanted:
            raise ConfigError(
                f"the outputs of {self.name} have the shape {list(output.shape)}, not "
                f"{list(wanted)}; restore its {OUTPUTS}"
            )
        return with_truth(dataset, output)


def with_truth(dataset: FusionDataset, output: Tensor) -> Predictions:
    """Return the predictions that consist of an `output` and the labels of a dataset."""
    task = dataset.processor.task
    logits = torch.zeros(len(dataset), task.num_outputs)
    _, truth, row = task.items(logits, dataset.labels())
    return Predictions(task, output, truth, row, len(dataset))


def score(predictions: Predictions) -> float:
    """Compute the main score, which is higher for better models."""
    task = predictions.task
    ones = torch.ones(1, len(predictions.truth), dtype=torch.float64)
    return float(task.metrics(predictions, ones, areas=False)[task.score_name])


def rows_of(dataset: FusionDataset) -> str:
    """Return a fingerprint of the inputs and labels of a dataset's rows, in their order."""
    manifest = dataset.manifest.select(dataset.rows.tolist())
    unused = {"split", "group"} & set(manifest.table.column_names)
    return fingerprint(replace(manifest, table=manifest.table.drop_columns(sorted(unused))))


def exists(folder: Path, name: str) -> bool:
    """Whether a run's folder has the outputs of a baseline."""
    return (folder / MODELS / slug(name) / OUTPUTS).is_file()


def save(folder: Path, baseline: Baseline) -> None:
    """Write a baseline to a run's folder. Its outputs are written last: see `exists`."""
    place = folder / MODELS / slug(baseline.name)
    place.mkdir(parents=True, exist_ok=True)
    files.write_json(place / CONFIG, asdict(baseline.config))
    outputs = {split: each.contiguous() for split, each in baseline.outputs.items()}
    files.write(place / OUTPUTS, to_bytes(outputs))


def load(folder: Path) -> list[Baseline]:
    """Load all baselines in a run's folder, sorted by name.

    Raises:
        ConfigError: a file is damaged; the message names it.
    """
    found = []
    for path in sorted((folder / MODELS).glob(f"*/{OUTPUTS}")):
        try:
            outputs = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path}: damaged ({error}); restore it") from None
        found.append(Baseline(parser.read(BaselineConfig, path.with_name(CONFIG)), outputs))
    return found
