"""A model as one object: fit, predict, evaluate, explain, save, load, share.

from fastrnn.fusion import FusionModel

model = FusionModel.fit("photos/manifest.csv")
print(model.evaluate("photos/test.csv"))
answers = model.predict("photos/new.csv")
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from rich.console import Console
from torch import nn

from . import checkpoint, evaluation, experiment, explanation, options, predict
from .config import RunConfig
from .data import Examples, Preprocessor
from .errors import ConfigError
from .manifest import read_manifest

Data = str | os.PathLike[str] | pd.DataFrame


class FusionModel(
    ModelHubMixin,
    library_name="fastrnn",
    tags=["multimodal", "recurrent-neural-network", "pytorch"],
):
    """A trained network, what makes its inputs from rows, and what it was trained with.

    Saved as config.json, model.safetensors and tokenizer.json: nothing is pickled, so that a
    stranger's model runs no code of theirs. A run folder of `fastrnn fit` holds such a model.
    """

    def __init__(self, network: nn.Module, preprocessor: Preprocessor, run: RunConfig) -> None:
        self.network = network.eval()
        self.preprocessor = preprocessor
        self.run = run
        self._held_out: Examples | None = None  # the rows that judged it, right after a fit

    @classmethod
    def fit(
        cls,
        data: Data,
        label: str | None = None,
        *,
        image: str | None = None,
        audio: str | None = None,
        text: str | None = None,
        series: str | None = None,
        split: str | None = None,
        group: str | None = None,
        root: str | os.PathLike[str] | None = None,
        kind: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        baselines: bool = False,
        init_from: str | os.PathLike[str] | None = None,
        on_bad_row: str = "error",
        workers: int = 0,
        console: Console | None = None,
        **values: Any,
    ) -> FusionModel:
        """Train on a table whose rows name files, as `fastrnn fit` does.

        Args:
            data: the path of a CSV, JSONL or Parquet file, or a DataFrame.
            label, image, audio, text, series, split, group: columns, where they are not to be
                inferred from their names and contents.
            root: the folder that paths are relative to and stay inside: the file's by default,
                the working directory for a DataFrame.
            kind: one of binary, multiclass, multilabel, regression, steps; inferred by default.
            folder: where the run is kept, with metrics and baselines; by default nowhere.
            baselines: also train what the model is to be compared with (into `folder`).
            init_from: a run whose weights are where training begins, as far as they fit.
            on_bad_row: "error", or "skip": rows that cannot be used are left out.
            workers: processes that decode files.
            console: where progress is told; nowhere by default.
            values: any field of DataConfig, ModelConfig or TrainConfig that is an option of
                `fastrnn fit`: epochs=20, fusion="concat", conv=(16, 32), ...

        Raises:
            FusionError: the table, a file or an option cannot be used; says what to do.
        """
        sections = options.sections(values)
        named = {
            "label": label,
            "image": image,
            "audio": audio,
            "text": text,
            "series": series,
            "split": split,
            "group": group,
        }
        columns = {role: name for role, name in named.items() if name is not None}
        manifest = read_manifest(data, columns, root, kind=kind, on_bad_row=on_bad_row)
        with tempfile.TemporaryDirectory() as passing:
            run = experiment.fit(
                manifest,
                Path(folder if folder is not None else Path(passing) / "run"),
                sections[0],
                sections[2],
                sections[1],
                baselines,
                console or Console(quiet=True),
                init_from=None if init_from is None else Path(init_from),
                workers=workers,
                on_bad_row=on_bad_row,
            )
        model = cls(run.trained[0].model, run.preprocessor, run.config)
        model._held_out = run.examples.get("test", run.examples["val"])
        return model

    def predict(
        self,
        data: Data,
        *,
        root: str | os.PathLike[str] | None = None,
        on_bad_row: str = "error",
        workers: int = 0,
        threshold: float = 0.5,
    ) -> pd.DataFrame:
        """Answer the rows of a table; it needs no labels.

        Returns:
            A row a row, with the index of a DataFrame that was given. `label` and, a column a
            label, `p(NAME)`, its probability; for labels a step lists of both; for regression
            `value`. With on_bad_row="skip" also `error`: why a row has no answer.

        Raises:
            FusionError: the table or one of its files cannot be used; says what to do.
        """
        predictor = predict.Predictor(self.network, self.preprocessor, self.run, threshold)
        reading = {"on_bad_row": on_bad_row, "workers": workers}
        records: list[predict.Record] = []
        if isinstance(data, pd.DataFrame):
            frame = data.reset_index(drop=True)
            for start in range(0, len(frame), predict.BLOCK):
                block = frame.iloc[start : start + predict.BLOCK]
                records += predictor.frame(block, root=root, **reading)
        else:
            for records_of_block in predictor.file(Path(data), root=root, **reading):
                records += records_of_block
        answers = pd.DataFrame([_flat(record, self.run.model.kind) for record in records])
        if on_bad_row == "skip" and "error" not in answers:
            answers["error"] = None
        if isinstance(data, pd.DataFrame):
            answers.index = data.index
        return answers

    def evaluate(
        self,
        data: Data | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        on_bad_row: str = "error",
        workers: int = 0,
    ) -> dict[str, Any]:
        """Every score on rows that have labels, with its confidence interval.

        Args:
            data: rows that it was not trained on; right after a fit by default those that the fit
                held out (test, else val).

        Returns:
            As docs/fusion.md describes a model of evaluation.json: {"rows": ..., "scores":
            {"accuracy": {"value": ..., "low": ..., "high": ...}, ...}, "calibration": ..., ...}.

        Raises:
            FusionError: the table or one of its files cannot be used; says what to do.
        """
        examples = self._examples(data, root, on_bad_row, workers)
        return evaluation.evaluate(self.network, self.run, examples).to_json()

    def _examples(self, data: Data | None, root: Any, on_bad_row: str, workers: int) -> Examples:
        if data is None:
            if self._held_out is None:
                raise ConfigError("give rows with labels: this model was loaded, and holds none")
            return self._held_out

    def save(self, folder: str | os.PathLike[str]) -> None:
        """`save_pretrained`: config.json, model.safetensors, tokenizer.json, and a model card."""
        self.save_pretrained(folder)

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.save(save_directory, self.run, self.network, self.preprocessor)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> FusionModel:
        """A folder's model, or the Hub's.

        Raises:
            ConfigError: there is none.
        """
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=list(checkpoint.FILES),  # and nothing else of a stranger's
                )
            )
        return cls(*checkpoint.load(folder))


def _flat(record: predict.Record, kind: str) -> predict.Record:
    """A column a label, where a row has one answer."""
    flat = {name: value for name, value in record.items() if name != "row"}
    if kind != "steps":
        flat |= {f"p({name})": each for name, each in flat.pop("probabilities", {}).items()}
    return flat
