"""What a model learned from the training rows, except its weights: labels, tokenizer, scales.

| file | |
|---|---|
| processor_config.json | how files become tensors, the problem type, labels, means and deviations |
| tokenizer.json | the tokenizer that it learned from the texts |
| tokenizer-NAME.json | the own tokenizer of the encoder of a text |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from .. import files
from ..config import parser
from ..config.inputs import InputName, of_modality
from ..config.parser import Checked, OneOf
from ..config.preprocessing import ImagePreprocessing, Preprocessing
from ..config.schema import DataConfig, Deviation, Moment
from ..errors import ConfigError, DataError, ManifestError, MediaError
from ..strings import plural
from ..tasks import TASKS, Task, task_of
from ..tasks.scale import Scale, scales
from . import text
from .bad_rows import BadRows, located
from .decoding import series_of
from .manifest import Manifest
from .preprocessing import file_name, load_tokenizers, without_paths
from .tabular import TabularArrays, TabularColumn, encode, fit_column

CONFIG, TOKENIZER = "processor_config.json", "tokenizer.json"


@dataclass(frozen=True)
class ProcessorConfig(Checked):
    """The content of processor_config.json."""

    data: DataConfig
    problem_type: Annotated[str, OneOf(tuple(TASKS))]
    modalities: tuple[Annotated[str, InputName()], ...]
    stream: bool
    labels: tuple[str, ...] = ()  # in the order of the outputs; none for a regression
    target: tuple[Moment, Deviation] | None = None  # regression: mean and standard deviation
    series: tuple[tuple[Moment, Deviation], ...] = ()  # of each variable of the only series
    series_columns: Mapping[Annotated[str, InputName()], tuple[tuple[Moment, Deviation], ...]] = (
        field(default_factory=dict)
    )  # or of each of several
    tabular: tuple[TabularColumn, ...] = ()
    preprocessing: Mapping[Annotated[str, InputName()], Preprocessing] = field(default_factory=dict)


@dataclass(frozen=True)
class Processor:
    """Turns rows into tensors as a model was trained on them; see dataset.FusionDataset.

    Attributes:
        config: how files become tensors.
        task: the problem type with its labels.
        modalities: the inputs that the model reads.
        stream: whether rows are sequences of steps.
        tokenizer: the learned tokenizer, for all texts whose encoder has none of its own.
        series: the mean and standard deviation of each variable of the training series, if there
            is one column of them.
        series_columns: the same for each of several columns, by input.
        tabular: the scale or the categories of each tabular column.
        preprocessing: what the encoders of inputs declare, by input.
        tokenizers: the own tokenizers of encoders of texts, by input.
    """

    config: DataConfig
    task: Task
    modalities: tuple[str, ...]
    stream: bool = False
    tokenizer: Tokenizer | None = None
    series: tuple[Scale, ...] = field(default=())
    series_columns: Mapping[str, tuple[Scale, ...]] = field(default_factory=dict)
    tabular: tuple[TabularColumn, ...] = ()
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)
    tokenizers: Mapping[str, Tokenizer] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        manifest: Manifest,
        rows: Sequence[int],
        config: DataConfig,
        tokenizer: Tokenizer | None = None,
        *,
        tabular: Iterable[TabularColumn] = (),
        preprocessing: Mapping[str, Preprocessing] | None = None,
        on_bad_row: str = "error",
    ) -> Processor:
        """Learn labels, tokenizer, means and standard deviations from the training rows.

        Args:
            rows: numbers of the training rows.
            config: how files become tensors.
            tokenizer: a tokenizer to use instead of training one on the texts of these rows.
            tabular: tabular columns to use instead of learning those of the same name.
            preprocessing: what the encoders of inputs declare, by input.
            on_bad_row: "skip" to ignore rows that cannot be used; FusionDataset lists them.

        Raises:
            ConfigError: a declared tokenizer cannot be loaded.
            ManifestError: the rows have no labels, or no row has one of the inputs.
            MediaError: a text or a series cannot be used. The message names the row and the
                remedy.
        """
        if not manifest.labelled:
            raise ManifestError(
                f"{manifest.path}: training needs labels; the manifest was read without"
            )
        for name in manifest.modalities:
            if manifest.rows.lacking(name)[rows].all():
                raise ManifestError(
                    f"{manifest.path}: all training rows are empty in the column "
                    f"{manifest.columns.get(name, name)!r} ({name}); fill it, or remove the column"
                )
        bad = BadRows(on_bad_row)
        tokenizers = load_tokenizers(preprocessing or {}, config)
        texts = sorted({*of_modality(manifest.modalities, "text")} - tokenizers.keys())
        if texts and tokenizer is None:
            tokenizer = text.train_tokenizer(
                (each for name in texts for each in _texts(manifest, name, rows, config, bad)),
                config.vocabulary,
            )
        scale = {
            name: _scales(manifest, name, rows, config, on_bad_row)
            for name in of_modality(manifest.modalities, "series")
        }
        task = _task(manifest, rows)
        only = scale.pop("series", ())
        inputs, stream = manifest.modalities, manifest.stream
        tokenizer = tokenizer if texts else None
        known = {column.name: column for column in tabular}
        learned = tuple(
            known.get(name) or fit_column(name, cells)
            for name, cells in _cells(manifest, rows).items()
        )
        declared = without_paths(preprocessing or {})
        return cls(
            config, task, inputs, stream, tokenizer, only, scale, learned, declared, tokenizers
        )

    @property
    def vocabulary(self) -> int:
        """Number of learned tokens; 0 without a text that needs them."""
        return 0 if self.tokenizer is None else self.tokenizer.get_vocab_size()

    @property
    def ngrams(self) -> int:
        """Number of buckets of hashed n-grams; 0 without text."""
        return self.config.ngrams if of_modality(self.modalities, "text") else 0

    @property
    def variables(self) -> int:
        """Number of variables of the only numeric series; 0 without one."""
        return len(self.series)

    @property
    def numbers(self) -> int:
        """Number of numeric features of the tabular columns."""
        return sum(column.features for column in self.tabular)

    @property
    def categories(self) -> tuple[int, ...]:
        """Number of categories of each tabular column that has some."""
        return tuple(len(each.categories) for each in self.tabular if each.kind == "categories")

    def cells(self, manifest: Manifest, rows: Sequence[int]) -> TabularArrays | None:
        """Return the tabular cells of rows; None without such columns."""
        if not self.tabular:
            return None
        return encode(self.tabular, _cells(manifest, rows), len(rows))

    @property
    def series_variables(self) -> tuple[tuple[str, int], ...]:
        """Number of variables of each of several series, sorted by input."""
        return tuple((name, len(each)) for name, each in sorted(self.series_columns.items()))

    def scale_of(self, name: str) -> tuple[Scale, ...]:
        """Return the mean and standard deviation of each variable of a series."""
        return self.series_columns.get(name, self.series)

    def tokenizer_of(self, name: str) -> Tokenizer | None:
        """Return the tokenizer of a text."""
        return self.tokenizers.get(name, self.tokenizer)

    def preprocessing_of(self, name: str) -> Preprocessing:
        """Return the preprocessing of an input; images have one in any case."""
        found = self.preprocessing.get(name, Preprocessing())
        size = self.config.image_size
        default = ImagePreprocessing(size, size, self.config.image_channels)
        return found if found.image else replace(found, image=default)

    def log_mels(self, names: Iterable[str]) -> list[str]:
        """Return the names of audio that becomes log-mel frames, of those given."""
        audio = of_modality(names, "audio")
        return [name for name in audio if self.preprocessing_of(name).audio is None]

    def frame_ms(self, name: str) -> float:
        """Return the milliseconds from one frame, or sample, of audio to the next."""
        audio = self.preprocessing_of(name).audio
        if audio is None:
            return self.config.hop_ms
        return 10.0 if audio.bands else 1000 / audio.sampling_rate  # of all EXTRACTORS

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the tokenizer as plain JSON values."""
        return asdict(
            ProcessorConfig(
                data=self.config,
                problem_type=self.task.problem_type,
                modalities=self.modalities,
                stream=self.stream,
                labels=self.task.labels,
                target=self.task.scale,
                series=self.series,
                series_columns=self.series_columns,
                tabular=self.tabular,
                preprocessing=self.preprocessing,
            )
        )

    def save(self, folder: Path) -> None:
        """Write processor_config.json and the tokenizers to a folder, which must exist."""
        files.write_json(folder / CONFIG, self.to_dict())
        if self.tokenizer is not None:
            files.write(folder / TOKENIZER, self.tokenizer.to_str(pretty=True))
        for name, each in self.tokenizers.items():
            files.write(folder / file_name(name), each.to_str(pretty=True))

    @classmethod
    def load(cls, folder: Path) -> Processor:
        """Load what `save` wrote.

        Raises:
            ConfigError: a file is missing, damaged or contradicts itself. The message names it.
        """
        path = folder / CONFIG
        read = parser.read(ProcessorConfig, path)
        task = task_of(read.problem_type)(read.labels, read.target)
        count = {"binary": 2, "regression": 0}.get(read.problem_type, len(read.labels))
        if len(read.labels) != count:
            raise ConfigError(
                f"{path}: damaged: {plural(len(read.labels), 'label')} do not match the problem "
                f"type {read.problem_type}; restore it"
            )
        names = [column.name for column in read.tabular]
        if bool(names) != ("tabular" in read.modalities) or len(set(names)) < len(names):
            raise ConfigError(f"{path}: damaged: the tabular columns are not unique, or not read")
        tokenizers = load_tokenizers(read.preprocessing, read.data, folder)
        tokenizer = None
        if set(of_modality(read.modalities, "text")) - tokenizers.keys():
            tokenizer = text.load_tokenizer(folder / TOKENIZER)
        return cls(
            read.data,
            task,
            read.modalities,
            read.stream,
            tokenizer,
            read.series,
            read.series_columns,
            read.tabular,
            read.preprocessing,
            tokenizers,
        )


def _task(manifest: Manifest, rows: Sequence[int]) -> Task:
    """Learn the labels of the training rows."""
    try:
        return manifest.task.fit(manifest.labels(rows))
    except ManifestError as error:
        raise ManifestError(f"{manifest.path}: {error}") from None


def _cells(manifest: Manifest, rows: Sequence[int]) -> dict[str, list[str | None]]:
    """Return the cells of the tabular columns, by input."""
    chosen = pa.array(rows, pa.int64())
    names = manifest.rows.of("tabular")
    return {name: manifest.rows.column(name).take(chosen).to_pylist() for name in names}


def _texts(
    manifest: Manifest, name: str, rows: Sequence[int], config: DataConfig, bad: BadRows
) -> Iterator[str]:
    column = manifest.rows.column(name)
    length = pc.fill_null(pc.utf8_length(column), 0).to_numpy()
    for row in rows:
        value = column[row].as_py()
        if value is not None and length[row] > config.max_characters:
            where = manifest.where(row)
            bad.add(where, located(manifest.path, where, text.too_long(value, config)))
        elif value is not None:
            yield value


def _scales(
    manifest: Manifest, name: str, rows: Sequence[int], config: DataConfig, on_bad_row: str
) -> tuple[Scale, ...]:
    found = scales(lambda: _series(manifest, name, rows, config, on_bad_row))
    if not found:
        raise ManifestError(f"{manifest.path}: no training row has a usable {name}")
    return found


def _series(
    manifest: Manifest, name: str, rows: Iterable[int], config: DataConfig, on_bad_row: str
) -> Iterator[np.ndarray]:
    """Yield the usable series of the rows, which must all have as many variables.

    A file that several rows name appears once for each.
    """
    bad = BadRows(on_bad_row)
    variables = None
    for row in rows:
        where = manifest.where(row)
        try:
            values = series_of(manifest, name, row, config)
            if values is None:
                continue
            variables = variables or values.shape[1]
            if values.shape[1] != variables:
                raise MediaError(
                    f"a series of {plural(values.shape[1], 'variable')}, but others have "
                    f"{variables}; give all rows the same number"
                )
        except DataError as error:
            bad.add(where, located(manifest.path, where, error))
            continue
        yield values
