"""FusionModel: train, apply, evaluate, explain, save and share a model in Python."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from huggingface_hub import ModelHubMixin
from rich.console import Console
from torch import nn

from . import checkpoint, hub
from .config.parameters import Parameters
from .config.schema import BATCH_SIZE, RunConfig
from .data.dataset import FusionDataset
from .data.manifest import read_manifest
from .data.processor import Processor
from .data.readers import Source
from .errors import ConfigError
from .evaluation import evaluator
from .evaluation.bootstrap import value
from .evaluation.run_data import labelled_rows
from .explain.explainer import Explainer
from .inference.frames import prediction_frame, probability_frame
from .inference.loop import InferenceConfig, find_device, predictions
from .inference.predictor import Predictor
from .training import run as training
from .training.callbacks import Callback

Folder = str | Path


class FusionModel(
    Parameters,
    ModelHubMixin,
    library_name="fastrnn",
    tags=["multimodal", "recurrent-neural-network", "pytorch"],
):
    """A model of images, audio, texts, series and tabular columns, fused by a recurrent layer.

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
            - folds: also cross-validate, with this many folds. The model itself is then trained
              as without folds.
            - init_from: a run whose weights initialise the model where names and shapes agree.
            - report_to: trackers of the metrics: "tensorboard", "wandb", "mlflow".
            - output_dir: where to save the run, with its metrics; not saved by default.
            - device: where predictions are computed: "auto", "cpu", "cuda", ...

    Attributes:
        network: the trained network.
        processor: the labels, the tokenizer and the scales that it learned from the training rows.
        config: the configuration of its run.
        history_: for each epoch {"train": {"loss": ...}, "val": ...}; empty for a loaded model.
        cross_validation_: {"models": {NAME: {"scores": [...], "mean": ..., "std": ...}}, ...}, or
            None without folds.

    Raises:
        ConfigError: an unknown option (the message suggests the closest), or an invalid value.
    """

    network: nn.Module
    processor: Processor
    config: RunConfig

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self._held_out: FusionDataset | None = None  # rows held out by `fit`
        self.history_: list[dict[str, dict[str, float]]] = []
        self.cross_validation_: Mapping[str, Any] | None = None

    def fit(
        self,
        data: Source,
        label: str | None = None,
        *,
        root: Folder | None = None,
        callbacks: Sequence[Callback] = (),
        console: Console | None = None,
        ignore: str | Sequence[str] = (),
        **columns: str | Sequence[str] | None,
    ) -> FusionModel:
        """Train on a table whose rows name files, as `fastrnn fit` does; return the model.

        Args:
            data: the path or URL of a CSV, JSONL or Parquet file or of shards, a DataFrame, a
                pyarrow.Table, or a datasets.Dataset.
            label: the column of the labels.
            root: the folder that paths are relative to and must stay inside. Defaults to the
                file's own folder, and to the current one if there is no file.
            callbacks: called after every epoch; on_epoch_end(metrics) returns True to stop.
            console: where to print progress; silent by default.
            ignore: columns that have no role.
            columns: other columns by role: image=["front", "back"], audio, text, series, tabular,
                split, group. A role that is not named is inferred from names and contents.

        Raises:
            FusionError: the table, a file or an option cannot be used; the message says the remedy.
        """
        config = self.fit_config()
        named = {key: name for key, name in {"label": label, **columns}.items() if name is not None}
        manifest = read_manifest(
            data,
            named,
            root,
            problem_type=self.parameter("problem_type"),
            on_bad_row=config.loading.on_bad_row,
            ignore=ignore,
        )
        with tempfile.TemporaryDirectory() as temporary:
            run = training.fit(
                manifest,
                self.parameter("output_dir") or Path(temporary) / "run",
                config,
                console=console or Console(quiet=True),
                callbacks=callbacks,
            )
        main, name = run.trained[0], run.processor.task.score_name
        self._set(main.model, run.processor, run.config)
        self._held_out, self.cross_validation_ = run.held_out, run.cross_validation
        self.history_ = [
            {split: each.named(name) for split, each in scores.items()} for scores in main.epochs
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
        return probability_frame(self.predict_table(data, **how), self.processor.task)

    def predict_table(
        self,
        data: Source,
        *,
        root: Folder | None = None,
        on_bad_row: str = "error",
        batch_size: int = BATCH_SIZE,
        num_workers: int = 0,
        device: torch.device | str | None = None,
        threshold: float | None = None,
    ) -> pd.DataFrame:
        """Predict the rows of a table, with everything that is known about each.

        Args:
            data: the table. It needs no labels; its columns are named as in the fit.
            root: the folder that paths are relative to and must stay inside.
            on_bad_row: "error" to raise on a row that cannot be used, "skip" to go on.
            batch_size: rows of one forward pass.
            num_workers: number of processes that decode files.
            device: where to compute; the model's `device` by default.
            threshold: the probability above which a label is predicted; for binary, the second
                one. By default the model's: `config.threshold`, tuned by `fit` for binary, or 0.5.

        Returns:
            One row for each row of `data`, with the index of a DataFrame. The columns are `label`,
            and `p(NAME)` with the probability of each label. Steps: `label` and `probabilities`
            are lists. Regression: `value`. With on_bad_row="skip" there is also `error`: why a row
            has no prediction.

        Raises:
            FusionError: the table or one of its files cannot be used; the message has the remedy.
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
        blocks = predictor.predict(data, root=root) if frame is None or len(frame) else ()
        task, errors = self.processor.task, on_bad_row == "skip"
        table = prediction_frame(chain.from_iterable(blocks), task, errors)
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
            FusionError: the table or one of its files cannot be used; the message has the remedy.
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
            FusionError: the table or one of its files cannot be used; the message has the remedy.
        """
        dataset, inference, device = self._labelled(data, **how)
        network = copy.deepcopy(self.network).to(device).requires_grad_(False)
        name = self.config.models[0] if self.config.models else "model"
        split = "held-out rows" if data is None else "all rows"
        skipped = [{"where": where, "error": error} for where, error in dataset.skipped]
        origin = {"model": name, "split": split, "skipped": skipped}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary if output_dir is None else output_dir)
            return Explainer(network, dataset, folder, inference).write(examples, origin)

    def _labelled(
        self,
        data: Source | None,
        *,
        root: Folder | None = None,
        on_bad_row: str = "error",
        batch_size: int = BATCH_SIZE,
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
        dataset = labelled_rows(
            data, self.config, self.processor, root, on_bad_row=on_bad_row, num_workers=num_workers
        )
        return dataset, inference, self._device(device)

    def _device(self, device: torch.device | str | None) -> torch.device:
        return find_device(self.parameter("device") if device is None else device)

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
            how: `encoders`, as for `load`, and the Hub's options: revision, token, cache_dir,
                force_download, local_files_only.

        Raises:
            ConfigError: there is no such model.
        """
        model, encoders = cls(), how.pop("encoders", None)
        folder = hub.find(pretrained_model_name_or_path, **how)
        model._set(*checkpoint.load(folder, encoders=encoders))
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        self._check_fitted()
        config = self.config.without_places()
        checkpoint.save(save_directory, config, self.network, self.processor)
