"""A model as one object: fit, predict, evaluate, explain, save, load, share.

from fastrnn.fusion import FusionModel

model = FusionModel.fit("photos/manifest.csv")
print(model.evaluate()["scores"])  # on the rows that were held out
answers = model.predict("photos/new.csv")
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import HfApi, ModelHubMixin, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from rich.console import Console
from torch import nn

from . import checkpoint, evaluation, experiment, explanation, options
from .config import BLOCK, RunConfig
from .data import Preprocessor
from .errors import ConfigError
from .manifest import Manifest, read_manifest
from .predict import Predictor
from .tables import Source
from .writers import Record

Folder = str | Path

_OF_THE_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)  # OWNER/NAME
_SECONDS = 10.0  # to wait for the Hub's first answer
_UNREACHABLE = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled)


class FusionModel(
    ModelHubMixin,
    library_name="fastrnn",
    tags=["multimodal", "recurrent-neural-network", "pytorch"],
):
    """A trained network, what makes its inputs of rows, and what it was trained with.

    Saved as config.json, model.safetensors and tokenizer.json: nothing is pickled, so that a
    stranger's model runs no code of theirs. The folder of a `fastrnn fit` holds such a model.
    """

    def __init__(self, network: nn.Module, preprocessor: Preprocessor, run: RunConfig) -> None:
        self.network = network.cpu().eval()
        self.preprocessor = preprocessor
        self.run = run
        self._held_out: Manifest | None = None  # rows that are to judge it, right after a fit

    @classmethod
    def fit(
        cls,
        data: Source,
        label: str | None = None,
        *,
        image: str | None = None,
        audio: str | None = None,
        text: str | None = None,
        series: str | None = None,
        split: str | None = None,
        group: str | None = None,
        root: Folder | None = None,
        kind: str | None = None,
        folder: Folder | None = None,
        baselines: bool = False,
        preset: str = "default",
        init_from: Folder | None = None,
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
            root: the folder that paths are relative to and stay inside: by default the file's own,
                for a DataFrame the current one.
            kind: one of config.KINDS; by default what the labels look like.
            folder: where the run is kept, with its metrics and baselines; by default nowhere.
            baselines: also train what the model is to be compared with; for `folder`.
            preset: the options to begin with.
            init_from: a run whose weights training begins with, as far as they fit.
            on_bad_row: "error", or "skip": leave out rows that cannot be used.
            workers: processes that decode files.
            console: where progress is told; by default nowhere.
            values: options of `fastrnn fit`, by name: epochs=20, fusion="concat", conv=(16, 32).

        Raises:
            FusionError: the table, one of its files or an option cannot be used; says what to do.
        """
        data_config, model, training = options.sections(options.preset(preset) | values)
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
                Path(passing) / "run" if folder is None else Path(folder),
                data_config,
                training,
                model,
                baselines,
                console or Console(quiet=True),
                init_from=init_from,
                workers=workers,
                on_bad_row=on_bad_row,
            )
        result = cls(run.trained[0].model, run.preprocessor, run.config)
        judging = run.examples.get("test", run.examples["val"])
        result._held_out = replace(manifest, rows=tuple(manifest.rows[n] for n in judging.rows))
        return result

    def predict(
        self,
        data: Source,
        *,
        root: Folder | None = None,
        on_bad_row: str = "error",
        workers: int = 0,
        threshold: float = 0.5,
    ) -> pd.DataFrame:
        """Answer the rows of a table, which needs no labels; columns are those of the fit.

        Args:
            threshold: two labels: the probability above which the second is the answer; several at
                once: above which each is.

        Returns:
            A row a row, with the index of a DataFrame that was given: `label`, and a column
            `p(NAME)` a label, its probability. Labels a step: lists `label` and `probabilities`.
            Regression: `value`. With on_bad_row="skip" also `error`: why a row has no answer.

        Raises:
            FusionError: the table or one of its files cannot be used; says what to do.
        """
        predictor = Predictor(self.network, self.preprocessor, self.run, threshold)
        reading: dict[str, Any] = {"root": root, "on_bad_row": on_bad_row, "workers": workers}
        blocks: Iterable[list[Record]]
        if isinstance(data, pd.DataFrame):
            frame = data.reset_index(drop=True)
            starts = range(0, len(frame), BLOCK)
            blocks = (predictor.frame(frame[at : at + BLOCK], **reading) for at in starts)
        else:
            blocks = predictor.file(Path(data), **reading)
        answers = pd.DataFrame(
            [_flat(record, self.run.model.kind) for block in blocks for record in block]
        )
        if on_bad_row == "skip" and "error" not in answers:
            answers["error"] = None
        if isinstance(data, pd.DataFrame):
            answers.index = data.index
        return answers

    def evaluate(
        self,
        data: Source | None = None,
        *,
        root: Folder | None = None,
        on_bad_row: str = "error",
        workers: int = 0,
    ) -> dict[str, Any]:
        """Every score on rows that have labels, with its confidence interval.

        Args:
            data: rows that it was not trained on; by default, right after a fit, those that the
                fit held out (test, else val).

        Returns:
            A model's part of evaluation.json: {"rows": ..., "scores": {"accuracy": {"value": ...,
            "low": ..., "high": ...}, ...}, ...}.

        Raises:
            FusionError: the table or one of its files cannot be used; says what to do.
        """
        table = self._table(data, root, on_bad_row)
        examples = self.preprocessor.load(
            table, range(len(table.rows)), on_bad_row=on_bad_row, workers=workers
        )
        return evaluation.evaluate(self.network, self.run, examples).to_json()

    def explain(
        self,
        data: Source | None = None,
        folder: Folder | None = None,
        *,
        root: Folder | None = None,
        on_bad_row: str = "error",
        workers: int = 0,
        examples: int = 6,
    ) -> dict[str, Any]:
        """What its answers to rows that have labels rest on.

        Args:
            data: as `evaluate` takes it.
            folder: where the model, explanation.json and pictures are kept; by default nowhere.
            examples: rows that are explained one by one.

        Returns:
            What explanation.json holds.

        Raises:
            FusionError: the table or one of its files cannot be used; says what to do.
        """
        table = self._table(data, root, on_bad_row)
        with tempfile.TemporaryDirectory() as passing:
            place = Path(passing if folder is None else folder)
            place.mkdir(parents=True, exist_ok=True)
            self._save_pretrained(place)
            name = next(iter(experiment.variants(self.run.model, baselines=False)))
            weights = checkpoint.weights(self.network)
            checkpoint.save_network(place, name, self.run.model, weights)
            return explanation.explain_run(
                place, table, examples=examples, on_bad_row=on_bad_row, workers=workers
            )

    def _table(self, data: Source | None, root: Folder | None, on_bad_row: str) -> Manifest:
        if data is None:
            if self._held_out is None:
                raise ConfigError("give rows with labels: a model that was loaded holds none")
            return self._held_out
        read = (*self.run.model.modalities, "label")
        columns = {role: name for role, name in self.run.columns.items() if role in read}
        return read_manifest(data, columns, root, kind=self.run.model.kind, on_bad_row=on_bad_row)

    def save(self, folder: Folder) -> None:
        """`save_pretrained`: config.json, model.safetensors, tokenizer.json, and a model card."""
        self.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **how: Any) -> FusionModel:
        """The model in a folder (of `save`, or of a fit), or on the Hub.

        Args:
            pretrained_model_name_or_path: a folder; OWNER/NAME where there is no such folder is
                asked of the Hub, once.
            how: revision, token, cache_dir, force_download, local_files_only: the Hub's.

        Raises:
            ConfigError: there is none.
        """
        name = pretrained_model_name_or_path
        folder = Path(name)
        if not folder.is_dir():
            if isinstance(name, Path) or not _OF_THE_HUB.fullmatch(name):
                raise ConfigError(
                    f"{name}: there is no such folder; give the folder of a model or of a run, or "
                    "OWNER/NAME for a model on the Hub"
                )
            folder = _downloaded(name, **how)
        return cls(*checkpoint.load(folder))

    def _save_pretrained(self, save_directory: Path) -> None:
        # Where the table lay says nothing to others, and is no one else's to know.
        run = replace(self.run, manifest="", root="")
        checkpoint.save(save_directory, run, self.network, self.preprocessor)


def _downloaded(name: str, **how: Any) -> Path:
    """The folder of a model of the Hub.

    Raises:
        ConfigError: it is not there, or cannot be had; says what to do.
    """
    why = None
    if not how.get("local_files_only"):
        asked = {each: how[each] for each in ("revision", "token") if each in how}
        try:
            HfApi().model_info(name, timeout=_SECONDS, **asked)
        except Exception as error:  # of whichever HTTP library the Hub's client uses
            # Downloading would try again and again; what was downloaded before may do.
            why, how = error, {**how, "local_files_only": True}
    try:
        # These files, and nothing else of a stranger's.
        return Path(snapshot_download(name, allow_patterns=list(checkpoint.FILES), **how))
    except _UNREACHABLE as error:
        reason = str(why or error).strip().partition("\n")[0]
        raise ConfigError(
            f"{name}: there is no such folder, and the Hub gives no such model ({reason}); check "
            "the name and the network, or give the folder of a model or of a run"
        ) from error


def _flat(record: Record, kind: str) -> Record:
    """Without the row's number, and with a column a label where a row has one answer."""
    flat = {name: value for name, value in record.items() if name != "row"}
    if kind != "steps":
        named = flat.pop("probabilities", {})
        flat |= {f"p({name})": each for name, each in named.items()}
    return flat
