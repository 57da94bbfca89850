"""The high-level API: train, apply, evaluate, explain, save and share a model.

from fastrnn.fusion import FusionModel

model = FusionModel.fit("photos/manifest.csv")
print(model.evaluate()["scores"])  # on the held-out rows
predictions = model.predict("photos/new.csv")
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

from . import checkpoint
from .config import options
from .config.schema import BLOCK, RunConfig
from .data.manifest import Manifest, read_manifest
from .data.processor import Preprocessor
from .data.readers import Source
from .errors import ConfigError
from .evaluation import evaluator as evaluation
from .explain import explainer as explanation
from .inference.predictor import Predictor
from .inference.writers import Record
from .training import run as experiment

Folder = str | Path

_OF_THE_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)  # OWNER/NAME
_SECONDS = 10.0  # timeout of the first request to the Hub
_UNREACHABLE = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled)


class FusionModel(
    ModelHubMixin,
    library_name="fastrnn",
    tags=["multimodal", "recurrent-neural-network", "pytorch"],
):
    """A trained network, its preprocessor, and the configuration of its run.

    The model is saved as config.json, model.safetensors and tokenizer.json. Nothing is pickled,
    so loading an untrusted model executes none of its code. The output folder of `fastrnn fit`
    contains such a model.
    """

    def __init__(self, network: nn.Module, preprocessor: Preprocessor, run: RunConfig) -> None:
        self.network = network.cpu().eval()
        self.preprocessor = preprocessor
        self.run = run
        self._held_out: Manifest | None = None  # rows held out by `fit`

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
        problem_type: str | None = None,
        folder: Folder | None = None,
        baselines: bool = False,
        preset: str = "default",
        init_from: Folder | None = None,
        on_bad_row: str = "error",
        num_workers: int = 0,
        console: Console | None = None,
        **values: Any,
    ) -> FusionModel:
        """Train on a table whose rows name files, as `fastrnn fit` does.

        Args:
            data: the path of a CSV, JSONL or Parquet file, or a DataFrame.
            label, image, audio, text, series, split, group: column names. A column that is not
                named is inferred from the column names and contents.
            root: the folder that paths are relative to and must stay inside. Defaults to the
                file's own folder, for a DataFrame to the current one.
            problem_type: one of config.PROBLEM_TYPES; inferred from the labels by default.
            folder: where to save the run, with its metrics and baselines; not saved by default.
            baselines: also train the baselines, which are saved in `folder`.
            preset: the options to start from.
            init_from: a run whose weights initialise the model where names and shapes agree.
            on_bad_row: "error" to raise on a row that cannot be used, "skip" to leave it out.
            num_workers: number of processes that decode files.
            console: where to print progress; silent by default.
            values: options of `fastrnn fit` by name: epochs=20, fusion="concat", conv=(16, 32).

        Raises:
            FusionError: the table, one of its files or an option cannot be used. The message says
                how to fix it.
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
        manifest = read_manifest(
            data, columns, root, problem_type=problem_type, on_bad_row=on_bad_row
        )
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
                num_workers=num_workers,
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
        num_workers: int = 0,
        threshold: float = 0.5,
    ) -> pd.DataFrame:
        """Predict the rows of a table. It needs no labels; its columns are named as in the fit.

        Args:
            threshold: binary: the probability above which the second label is predicted;
                multilabel: the probability above which a label is predicted.

        Returns:
            One row for each row of `data`, with the index of a DataFrame. The columns are `label`,
            and `p(NAME)` with the probability of each label. Kind "steps": `label` and
            `probabilities` are lists. Regression: `value`. With on_bad_row="skip" there is also
            `error`: why a row has no prediction.

        Raises:
            FusionError: the table or one of its files cannot be used. The message says how to fix
                it.
        """
        predictor = Predictor(self.network, self.preprocessor, self.run, threshold)
        reading: dict[str, Any] = {
            "root": root,
            "on_bad_row": on_bad_row,
            "num_workers": num_workers,
        }
        blocks: Iterable[list[Record]]
        if isinstance(data, pd.DataFrame):
            frame = data.reset_index(drop=True)
            starts = range(0, len(frame), BLOCK)
            blocks = (predictor.frame(frame[at : at + BLOCK], **reading) for at in starts)
        else:
            blocks = predictor.file(Path(data), **reading)
        answers = pd.DataFrame(
            [_flat(record, self.run.model.problem_type) for block in blocks for record in block]
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
        num_workers: int = 0,
    ) -> dict[str, Any]:
        """Compute every score on labelled rows, with its confidence interval.

        Args:
            data: rows that the model was not trained on. Right after a fit it defaults to the
                rows that the fit held out (test, else val).

        Returns:
            The entry of one model in evaluation.json: {"rows": ..., "scores": {"accuracy":
            {"value": ..., "low": ..., "high": ...}, ...}, ...}.

        Raises:
            FusionError: the table or one of its files cannot be used. The message says how to fix
                it.
        """
        table = self._table(data, root, on_bad_row)
        examples = self.preprocessor.load(
            table, range(len(table.rows)), on_bad_row=on_bad_row, num_workers=num_workers
        )
        return evaluation.evaluate(self.network, self.run, examples).to_json()

    def explain(
        self,
        data: Source | None = None,
        folder: Folder | None = None,
        *,
        root: Folder | None = None,
        on_bad_row: str = "error",
        num_workers: int = 0,
        examples: int = 6,
    ) -> dict[str, Any]:
        """Explain the model's predictions on labelled rows.

        Args:
            data: as for `evaluate`.
            folder: where to save the model, explanation.json and pictures; not saved by default.
            examples: number of rows to explain individually.

        Returns:
            The content of explanation.json.

        Raises:
            FusionError: the table or one of its files cannot be used. The message says how to fix
                it.
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
                place, table, examples=examples, on_bad_row=on_bad_row, num_workers=num_workers
            )

    def _table(self, data: Source | None, root: Folder | None, on_bad_row: str) -> Manifest:
        if data is None:
            if self._held_out is None:
                raise ConfigError("give rows with labels: a loaded model has no held-out rows")
            return self._held_out
        read = (*self.run.model.modalities, "label")
        columns = {role: name for role, name in self.run.columns.items() if role in read}
        return read_manifest(
            data, columns, root, problem_type=self.run.model.problem_type, on_bad_row=on_bad_row
        )

    def save(self, folder: Folder) -> None:
        """Write config.json, model.safetensors, tokenizer.json and a model card to a folder.

        The same as `save_pretrained`.
        """
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
        name = pretrained_model_name_or_path
        folder = Path(name)
        if not folder.is_dir():
            if isinstance(name, Path) or not _OF_THE_HUB.fullmatch(name):
                raise ConfigError(
                    f"{name}: no such folder; give the folder of a model or of a run, or "
                    "OWNER/NAME for a model on the Hub"
                )
            folder = _downloaded(name, **how)
        return cls(*checkpoint.load(folder))

    def _save_pretrained(self, save_directory: Path) -> None:
        # The table's location is private, and useless on another machine.
        run = replace(self.run, manifest="", root="")
        checkpoint.save(save_directory, run, self.network, self.preprocessor)


def _downloaded(name: str, **how: Any) -> Path:
    """Download a model from the Hub and return its folder.

    Raises:
        ConfigError: the model does not exist or cannot be downloaded. The message says what to do.
    """
    why = None
    if not how.get("local_files_only"):
        asked = {each: how[each] for each in ("revision", "token") if each in how}
        try:
            HfApi().model_info(name, timeout=_SECONDS, **asked)
        except Exception as error:  # the type depends on the HTTP library of the Hub's client
            # A download would retry many times, so fall back to the local cache.
            why, how = error, {**how, "local_files_only": True}
    try:
        # Download only these files from an untrusted repository.
        return Path(snapshot_download(name, allow_patterns=list(checkpoint.FILES), **how))
    except _UNREACHABLE as error:
        reason = str(why or error).strip().partition("\n")[0]
        raise ConfigError(
            f"{name}: no such folder, and the model cannot be loaded from the Hub ({reason}); "
            "check the name and the network, or give the folder of a model or of a run"
        ) from error


def _flat(record: Record, problem_type: str) -> Record:
    """Drop the row number; except for steps, give each label's probability a column."""
    flat = {name: value for name, value in record.items() if name != "row"}
    if problem_type != "steps":
        named = flat.pop("probabilities", {})
        flat |= {f"p({name})": each for name, each in named.items()}
    return flat
