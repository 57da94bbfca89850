"""The high-level API: train, apply, evaluate, explain, save and share a model.

from fastrnn.fusion import FusionModel

model = FusionModel(epochs=20).fit("photos/manifest.csv")
print(model.evaluate()["scores"])  # on the held-out rows
predictions = model.predict("photos/new.csv")
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from huggingface_hub import ModelHubMixin
from rich.console import Console
from torch import nn

from . import checkpoint, hub
from .config import options
from .config.renamed import renamed
from .config.schema import FitConfig, RunConfig
from .data.dataset import FusionDataset, load_dataset
from .data.loader import check_files
from .data.manifest import read_manifest
from .data.processor import Processor
from .data.readers import Source
from .errors import ConfigError
from .evaluation import evaluator
from .evaluation.bootstrap import value
from .explain.explainer import Explainer
from .inference.loop import InferenceConfig, find_device, predictions
from .inference.predictor import Predictor
from .inference.writers import Record
from .tasks import Task
from .training import run as training
from .training.callbacks import Callback

Folder = str | Path

# Parameters of FusionModel in addition to the options of a fit, and their defaults.
_PARAMETERS: dict[str, Any] = {
    "preset": "default",
    "problem_type": None,
    "baselines": False,
    "init_from": None,
    "report_to": (),
    "output_dir": None,
    "device": "auto",
}


class FusionModel(
    ModelHubMixin,
    library_name="fastrnn",
    tags=["multimodal", "recurrent-neural-network", "pytorch"],
):
    """A model of images, audio, texts and series, with a recurrent layer that fuses them.

    The interface is that of scikit-learn's estimators and of transformers' models. A model is saved
    as config.json, model.safetensors, processor_config.json and tokenizer.json. Nothing is pickled,
    so loading an untrusted model executes none of its code. The output folder of `fastrnn fit`
    contains such a model.

    Args:
        parameters: options of `fastrnn fit` by name, such as epochs=20, fusion="concat" or
            conv=(16, 32), and:

            - preset: the options to start from, "default" or "article".
            - problem_type: binary, multiclass, multilabel, regression or steps; inferred from the
              labels by default.
            - baselines: also train the baselines, which are saved in `output_dir`.
            - init_from: a run whose weights initialise the model where names and shapes agree.
            - report_to: trackers of the metrics: "tensorboard", "wandb", "mlflow".
            - output_dir: where to save the run, with its metrics; not saved by default.
            - device: where predictions are computed: "auto", "cpu", "cuda", ...

    Attributes:
        network: the trained network.
        processor: the labels, the tokenizer and the scales that it learned from the training rows.
        config: the configuration of its run.
        history_: for each epoch {"train": {"loss": ...}, "val": ...}; empty for a loaded model.

    Raises:
        ConfigError: an unknown option (the message suggests the closest), or an invalid value.
    """

    network: nn.Module
    processor: Processor
    config: RunConfig

    def __init__(self, **parameters: Any) -> None:
        self._parameters: dict[str, Any] = {}
        self._held_out: FusionDataset | None = None  # rows held out by `fit`
        self.history_: list[dict[str, dict[str, float]]] = []
        self.set_params(**parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all parameters of the constructor, with their values."""
        chosen = options.preset(self._parameters.get("preset", "default"))
        defaults = {name: each.default for name, each in options.OPTIONS.items()}
        return defaults | _PARAMETERS | chosen | self._parameters

    def set_params(self, **parameters: Any) -> FusionModel:
        """Set parameters of the constructor for the next fit; return the model.

        Raises:
            ConfigError: as for the constructor.
        """
        known = {*options.OPTIONS, *_PARAMETERS}
        parameters = renamed(parameters, known)
        options.check_names(parameters, known)
        parameters = self._parameters | parameters
        _fit_config(parameters)  # checks the values
        self._parameters = parameters
        return self

    def fit(
        self,
        data: Source,
        label: str | None = None,
        *,
        root: Folder | None = None,
        callbacks: Sequence[Callback] = (),
        console: Console | None = None,
        **columns: str | None,
    ) -> FusionModel:
        """Train on a table whose rows name files, as `fastrnn fit` does.

        Args:
            data: the path of a CSV, JSONL or Parquet file, a DataFrame, a pyarrow.Table, or a
                datasets.Dataset.
            label: the column of the labels.
            root: the folder that paths are relative to and must stay inside. Defaults to the
                file's own folder, and to the current one if there is no file.
            callbacks: called after every epoch; on_epoch_end(metrics) returns True to stop.
            console: where to print progress; silent by default.
            columns: other columns by role: image, audio, text, series, split, group. A column that
                is not named is inferred from the column names and contents.

        Returns:
            The model itself.

        Raises:
            FusionError: the table, one of its files or an option cannot be used. The message says
                how to fix it.
        """
        config = _fit_config(self._parameters)
        named = {role: name for role, name in {"label": label, **columns}.items() if name}
        manifest = read_manifest(
            data,
            named,
            root,
            problem_type=self._parameters.get("problem_type"),
            on_bad_row=config.loading.on_bad_row,
        )
        output_dir = self._parameters.get("output_dir")
        with tempfile.TemporaryDirectory() as temporary:
            run = training.fit(
                manifest,
                Path(temporary) / "run" if output_dir is None else output_dir,
                config,
                console=console or Console(quiet=True),
                callbacks=callbacks,
            )
        main = run.trained[0]
        self._set(main.model, run.processor, run.config)
        self._held_out = run.held_out
        name = run.processor.task.score_name
        self.history_ = [
            {split: {"loss": each.loss, name: each.score} for split, each in scores.items()}
            for scores in main.epochs
        ]
        return self

    def _set(self, network: nn.Module, processor: Processor, config: RunConfig) -> None:
        self.network, self.processor, self.config = network.cpu().eval(), processor, config

    @property
    def classes_(self) -> tuple[str, ...]:
        """The labels in the order of `predict_proba`; empty for a regression."""
        self._check_fitted()
        return self.processor.task.labels

    def predict(self, data: Source, **how: Any) -> pd.Series:
        """Predict the labels of a table, or the values of a regression.

        Args:
            data: the table. It needs no labels; its columns are named as in the fit.
            how: keyword arguments of `predict_table`.

        Returns:
            One item per row, with the index of a DataFrame: a label, a list of labels (multilabel,
            steps), or a number. None, or NaN, for a row that was skipped.

        Raises:
            FusionError: as `predict_table`.
        """
        table = self.predict_table(data, **how)
        return table["value" if "value" in table else "label"]

    def predict_proba(self, data: Source, **how: Any) -> pd.DataFrame:
        """Predict the probability of each label.

        Args:
            data, how: as for `predict`.

        Returns:
            One row per row of `data`, one column per label, as in `classes_`. For steps, a cell is
            a list with one probability per step.

        Raises:
            ConfigError: a regression has no probabilities.
            FusionError: as `predict_table`.
        """
        if not self.classes_:
            raise ConfigError("a regression has no probabilities; use predict")
        table = self.predict_table(data, **how)
        if self.processor.task.per_step:
            steps = table["probabilities"]
            return pd.DataFrame(
                {
                    name: [[each[name] for each in row or []] for row in steps]
                    for name in self.classes_
                },
                index=table.index,
            )
        found = table[[f"p({name})" for name in self.classes_]]
        return found.set_axis(list(self.classes_), axis=1)

    def predict_table(
        self,
        data: Source,
        *,
        root: Folder | None = None,
        on_bad_row: str = "error",
        batch_size: int = 256,
        num_workers: int = 0,
        device: torch.device | str | None = None,
        threshold: float = 0.5,
    ) -> pd.DataFrame:
        """Predict the rows of a table, with everything that is known about each.

        Args:
            data: the table. It needs no labels; its columns are named as in the fit.
            root: the folder that paths are relative to and must stay inside.
            on_bad_row: "error" to raise on a row that cannot be used, "skip" to go on.
            batch_size: rows of one forward pass.
            num_workers: number of processes that decode files.
            device: where to compute; the model's `device` by default.
            threshold: binary: the probability above which the second label is predicted;
                multilabel: the probability above which a label is predicted.

        Returns:
            One row for each row of `data`, with the index of a DataFrame. The columns are `label`,
            and `p(NAME)` with the probability of each label. Steps: `label` and `probabilities`
            are lists. Regression: `value`. With on_bad_row="skip" there is also `error`: why a row
            has no prediction.

        Raises:
            FusionError: the table or one of its files cannot be used. The message says how to fix
                it.
        """
        self._check_fitted()
        predictor = Predictor(
            self.network,
            self.processor,
            self.config,
            threshold,
            self._device(device),
            InferenceConfig(batch_size, num_workers),
            on_bad_row,
        )
        frame = data if isinstance(data, pd.DataFrame) else None
        source = data if frame is None else frame.reset_index(drop=True)
        blocks = predictor.predict(source, root=root) if frame is None or len(frame) else ()
        records = chain.from_iterable(blocks)
        table = pd.DataFrame(
            [_flat(each, self.processor.task.per_step) for each in records],
            columns=_columns(self.processor.task) + ["error"] * (on_bad_row == "skip"),
        )
        if frame is not None:
            table.index = frame.index
        return table

    def score(self, data: Source | None = None, **how: Any) -> float:
        """Compute the main score on labelled rows: accuracy, or R² of a regression.

        Args:
            data, how: as for `evaluate`.
        """
        dataset, inference, device = self._labelled(data, **how)
        found = predictions(self.network.to(device), dataset, inference)
        return value(found, found.task.score_name)

    def evaluate(self, data: Source | None = None, **how: Any) -> dict[str, Any]:
        """Compute every score on labelled rows, with its confidence interval.

        Args:
            data: rows that the model was not trained on. Right after a fit it defaults to the
                rows that the fit held out (test, else val).
            how: root, on_bad_row, batch_size, num_workers and device, as for `predict_table`.

        Returns:
            The entry of one model in evaluation.json: {"rows": ..., "scores": {"accuracy":
            {"value": ..., "low": ..., "high": ...}, ...}, ...}.

        Raises:
            FusionError: the table or one of its files cannot be used. The message says how to fix
                it.
        """
        dataset, inference, device = self._labelled(data, **how)
        return evaluator.evaluate(self.network.to(device), dataset, inference=inference).to_json()

    def explain(
        self,
        data: Source | None = None,
        output_dir: Folder | None = None,
        *,
        examples: int = 6,
        **how: Any,
    ) -> dict[str, Any]:
        """Explain the model's predictions on labelled rows.

        Args:
            data, how: as for `evaluate`.
            output_dir: where to save explanation.json and pictures; not saved by default.
            examples: number of rows to explain individually.

        Returns:
            The content of explanation.json.

        Raises:
            FusionError: the table or one of its files cannot be used. The message says how to fix
                it.
        """
        dataset, inference, device = self._labelled(data, **how)
        network = copy.deepcopy(self.network).to(device).requires_grad_(False)
        name = self.config.models[0] if self.config.models else "model"
        skipped = [{"where": where, "error": error} for where, error in dataset.skipped]
        origin = {"model": name, "split": "all rows", "skipped": skipped}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary if output_dir is None else output_dir)
            return Explainer(network, dataset, folder, inference).write(examples, origin)

    def _labelled(
        self,
        data: Source | None,
        *,
        root: Folder | None = None,
        on_bad_row: str = "error",
        batch_size: int = 256,
        num_workers: int = 0,
        device: torch.device | str | None = None,
    ) -> tuple[FusionDataset, InferenceConfig, torch.device]:
        """Load labelled rows, or take those that the fit held out."""
        self._check_fitted()
        inference = InferenceConfig(batch_size, num_workers)
        if data is None:
            if self._held_out is None:
                raise ConfigError("give rows with labels: a loaded model has no held-out rows")
            return self._held_out, inference, self._device(device)
        read = (*self.config.model.modalities, "label")
        columns = {role: name for role, name in self.config.columns.items() if role in read}
        problem_type = self.config.model.problem_type
        manifest = read_manifest(
            data, columns, root, problem_type=problem_type, on_bad_row=on_bad_row
        )
        dataset = load_dataset(manifest, self.processor, on_bad_row=on_bad_row, cache="memory")
        if on_bad_row == "skip":
            dataset = check_files(dataset, "skip", num_workers)
        return dataset, inference, self._device(device)

    def _device(self, device: torch.device | str | None) -> torch.device:
        return find_device(self._parameters.get("device", "auto") if device is None else device)

    def _check_fitted(self) -> None:
        if not hasattr(self, "network"):
            raise ConfigError("the model is not trained; call fit, or load it by from_pretrained")

    def save(self, folder: Folder) -> None:
        """Write the model and a model card to a folder. The same as `save_pretrained`."""
        self.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **how: Any) -> FusionModel:
        """Load a model from a folder (written by `save` or by a fit) or from the Hub.

        Args:
            pretrained_model_name_or_path: a folder, or OWNER/NAME. If no such folder exists,
                OWNER/NAME is requested from the Hub once.
            how: the Hub's options: revision, token, cache_dir, force_download, local_files_only.

        Raises:
            ConfigError: there is no such model.
        """
        model = cls()
        model._set(*checkpoint.load(hub.find(pretrained_model_name_or_path, **how)))
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        self._check_fitted()
        # The table's location is private, and useless on another machine.
        config = replace(self.config, manifest="", root="")
        checkpoint.save(save_directory, config, self.network, self.processor)


def _columns(task: Task) -> list[str]:
    """Return the columns of a table of predictions."""
    names = [name for name, _ in task.fields()]
    if task.per_step or "probabilities" not in names:
        return names
    return ["label", *(f"p({name})" for name in task.labels)]


def _flat(record: Mapping[str, Any], per_step: bool) -> Record:
    """Drop the row number; except for steps, give each label's probability a column."""
    flat = {name: value for name, value in record.items() if name != "row"}
    if not per_step:
        named = flat.pop("probabilities", {})
        flat |= {f"p({name})": each for name, each in named.items()}
    return flat


def _fit_config(given: Mapping[str, Any]) -> FitConfig:
    """Return the options of a fit from the parameters of FusionModel."""
    values = options.preset(given.get("preset", "default"))
    values |= {name: value for name, value in given.items() if name in options.OPTIONS}
    init_from, report_to = given.get("init_from"), given.get("report_to", ())
    return options.fit_config(
        values,
        baselines=given.get("baselines", False),
        init_from=None if init_from is None else str(init_from),
        report_to=(report_to,) if isinstance(report_to, str) else tuple(report_to),
    )
