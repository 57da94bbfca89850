"""Convert manifest rows to Examples; examples.py describes the keys of a batch.

A Preprocessor holds what a model needs in addition to its weights: the names of its labels, its
tokenizer, its means and standard deviations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from ..config.schema import DataConfig, RunConfig
from ..errors import DataError, FusionError, ManifestError, MediaError
from ..strings import plural
from ..tasks.labels import Label, canonical, names_of, settle
from ..tasks.scale import FARTHEST, Scale, scales
from . import text
from . import timeseries as series
from .bad_rows import BadRows
from .dataset import ABSENT, IGNORE, Batch, Examples
from .decoding import File, decode
from .manifest import Manifest
from .rows import Row
from .splits import label_names

__all__ = ["IGNORE", "Batch", "Examples", "Preprocessor"]


@dataclass(frozen=True)
class Preprocessor:
    """Turns rows into Examples as a model was trained on them."""

    config: DataConfig
    labels: tuple[str, ...]  # names in the order of their indices; empty for a regression
    tokenizer: Tokenizer | None = None
    problem_type: str = "multiclass"  # one of config.PROBLEM_TYPES
    target: Scale | None = None  # scale of a regression's training labels
    series: tuple[Scale, ...] = ()  # scale of each variable of the training series
    modalities: tuple[str, ...] = ()  # modalities to read; (): those of the manifest
    stream: bool | None = None  # rows are sequences of steps; None: as in the manifest

    @classmethod
    def fit(
        cls,
        manifest: Manifest,
        rows: Iterable[int],
        config: DataConfig,
        tokenizer: Tokenizer | None = None,
        *,
        on_bad_row: str = "error",
        num_workers: int = 0,
    ) -> Preprocessor:
        """Learn labels, tokenizer, means and standard deviations from the training rows.

        Args:
            rows: numbers of the training rows.
            config: how files become tensors.
            tokenizer: a tokenizer to use instead of training one on the texts of these rows.
            on_bad_row: "skip" to ignore rows that cannot be used; `load` lists them.
            num_workers: number of processes that read the files of numeric series.

        Raises:
            ManifestError: the rows have no labels, or no row has one of the modalities.
            MediaError: a text or a series cannot be used. The message names the row and the
                remedy.
        """
        rows = list(rows)
        table = [manifest.rows[row] for row in rows]
        if not manifest.labelled:
            raise ManifestError(
                f"{manifest.path}: training needs labels; the manifest was read without"
            )
        for name in manifest.modalities:
            if not any(row.has(name) for row in table):
                raise ManifestError(
                    f"{manifest.path}: all training rows are empty in the column "
                    f"{manifest.columns[name]!r} ({name}); fill it, or remove the column"
                )
        bad = BadRows(on_bad_row)
        if "text" in manifest.modalities and tokenizer is None:
            tokenizer = text.train_tokenizer(
                _texts(manifest, table, config, bad), config.vocabulary
            )
        scale: tuple[Scale, ...] = ()
        if "series" in manifest.modalities:
            scale = series.statistics(_series(manifest, table, config, bad, num_workers))
            if not scale:
                raise ManifestError(f"{manifest.path}: no training row has a usable series")
        return cls(
            config=config,
            labels=label_names(manifest, rows),
            tokenizer=tokenizer if "text" in manifest.modalities else None,
            problem_type=manifest.problem_type,
            target=_target(manifest.path, table) if manifest.problem_type == "regression" else None,
            series=scale,
            modalities=manifest.modalities,
            stream=manifest.stream,
        )

    @classmethod
    def restore(cls, config: RunConfig, tokenizer: Tokenizer | None) -> Preprocessor:
        """Create the preprocessor of a run from its configuration and tokenizer."""
        return cls(
            config=config.data,
            labels=config.labels,
            tokenizer=tokenizer,
            problem_type=config.model.problem_type,
            target=config.target,
            series=config.series,
            modalities=config.model.modalities,
            stream=config.model.stream,
        )

    @property
    def vocabulary(self) -> int:
        """Number of tokens; 0 without text."""
        return 0 if self.tokenizer is None else self.tokenizer.get_vocab_size()

    @property
    def variables(self) -> int:
        """Number of variables of a numeric series; 0 without a series."""
        return len(self.series)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        exact = {name: number for number, name in enumerate(self.labels)}
        # An older model may have labels that are not in their canonical form.
        return {canonical(name): number for name, number in exact.items()} | exact

    def load(
        self,
        manifest: Manifest,
        rows: Iterable[int],
        *,
        on_bad_row: str = "error",
        num_workers: int = 0,
    ) -> Examples:
        """Decode rows of a manifest.

        Args:
            rows: numbers of rows of the manifest.
            on_bad_row: "skip" to leave out rows that cannot be used. `Examples.rows` has the
                numbers of the remaining rows, `Examples.skipped` the place and the error of the
                others.
            num_workers: number of processes that decode files; the result does not depend on it.

        Raises:
            DataError: a file, a text or a label cannot be used, or no labelled row can be. The
                message names the manifest, the row, the file and the remedy.
        """
        wanted = self.modalities or manifest.modalities
        for name in wanted:
            if name not in manifest.columns:
                raise ManifestError(
                    f"{manifest.path}: the model reads {name}, but there is no such column; name "
                    f"one with --{name}, or add an empty one if every row lacks it"
                )
        stream = manifest.stream if self.stream is None else self.stream
        if manifest.stream and not stream:
            raise ManifestError(
                f"{manifest.path}: rows are sequences of images, but the model reads one image per "
                "row; write one instead of a list"
            )
        rows = list(rows)
        bad = BadRows(on_bad_row)
        files = _Files(self.config)
        named = [manifest.rows[row] for row in rows]
        for file, result in decode(named, wanted, self.config, num_workers):
            files.add(file, result)
            if isinstance(result, MediaError) and not bad.skip:
                break  # raised below, with its row
        # In the order of Row.files, so that the first damaged file is the one reported.
        order = [name for name in ("image", "audio", "series", "text") if name in wanted]
        kept: list[int] = []
        table: list[Row] = []
        columns: dict[str, list[Tensor | None]] = {name: [] for name in wanted}
        texts: list[str | None] = []
        labels: list[Tensor] = []
        for index in rows:
            row = replace(manifest.rows[index], stream=stream)
            with bad.row(row.where), _named(manifest, row):
                if not any(row.has(name) for name in wanted):
                    raise ManifestError(
                        f"no value for {', '.join(wanted)}; fill one, or remove the row"
                    )
                values = {name: self._value(row, name, files) for name in order}
                if "text" in wanted and row.text is not None:
                    text.check(row.text, self.config)
                label = self._label(row.label) if manifest.labelled else None
                kept.append(index)
                table.append(row)
                texts.append(row.text)
                for name, value in values.items():
                    columns[name].append(value)
                if label is not None:
                    labels.append(label)
        if manifest.labelled and rows and not kept:
            raise DataError(
                f"{manifest.path}: no row can be used; the first error: {bad.listed[0][1]}"
            )
        cut = 0
        if "text" in wanted:
            columns["text"], cut = self._tokens(texts)
        return Examples(
            steps=[row.steps for row in table] if stream else None,
            labels=labels,
            frames=files.frames if "image" in wanted else None,
            images=self._filled(columns, "image", table),
            audio=self._filled(columns, "audio", table),
            text=self._filled(columns, "text", table),
            texts_cut=cut,
            series=self._filled(columns, "series", table),
            present={
                name: [row.has(name) for row in table]
                for name in wanted
                if not all(row.has(name) for row in table)
            },
            rows=tuple(kept),
            skipped=tuple(bad.listed),
        )

    def _value(self, row: Row, name: str, files: _Files) -> Tensor | None:
        """Return the row's tensor of a modality; None if it is missing, and for text."""
        if not row.has(name) or name == "text":
            return None
        if name == "image":
            found = torch.tensor([files.number(path) for path in row.images])
            # A single image with a list of labels is repeated at every step.
            return found.expand(row.steps) if row.stream else found[0]
        if name == "audio" and row.audio is not None:
            return files.clip(row.audio)
        if isinstance(row.series, Path):
            values = files.array("series", row.series)
        else:
            values = np.asarray(row.series)
            series.check_size(values, self.config)
        return series.standardise(values, self.series)

    def _filled(
        self, columns: dict[str, list[Tensor | None]], name: str, table: list[Row]
    ) -> list[Tensor] | None:
        """Return a modality's column with placeholders if missing; None if it is not read."""
        if name not in columns:
            return None
        shapes = {"audio": (1, self.config.mels), "series": (1, len(self.series))}
        result = []
        for row, value in zip(table, columns[name], strict=True):
            if value is None and name == "image":
                value = torch.full((row.steps,) if row.stream else (), ABSENT)
            elif value is None and name == "text":
                value = torch.zeros(1, dtype=torch.int64)
            elif value is None:
                value = torch.zeros(shapes[name])
            result.append(value)
        return result

    def _tokens(self, texts: list[str | None]) -> tuple[list[Tensor | None], int]:
        """Tokenize the texts; return the token ids of each, and how many were truncated."""
        if self.tokenizer is None:
            raise ManifestError("the manifest has texts, but the model has no tokenizer")
        encoded = iter(self.tokenizer.encode_batch([each for each in texts if each is not None]))
        ids = [None if each is None else torch.tensor(next(encoded).ids) for each in texts]
        longest = self.config.max_tokens
        cut = sum(each is not None and len(each) > longest for each in ids)
        return [None if each is None else each[:longest] for each in ids], cut

    def _label(self, value: Label) -> Tensor:
        label = settle(value, self.problem_type)
        if self.problem_type == "regression":
            mean, deviation = self.target or (0.0, 1.0)
            number = (float(str(label)) - mean) / deviation
            if abs(number) > FARTHEST:
                raise ManifestError(
                    f"{label} is more than {FARTHEST:g} standard deviations from the mean of the "
                    "training labels; fix it, or remove the row"
                )
            return torch.tensor(number, dtype=torch.float32)
        numbers = self._numbers
        for name in names_of(label):
            if name not in numbers:
                raise ManifestError(
                    f"the label {name!r} was not in training ({', '.join(self.labels[:10])}); "
                    "fix it, or remove the row"
                )
        if isinstance(label, str):
            return torch.tensor(numbers[label])
        if self.problem_type == "multilabel":
            holds = torch.zeros(len(self.labels))
            holds[[numbers[name] for name in names_of(label)]] = 1
            return holds
        return torch.tensor([IGNORE if name is None else numbers[name] for name in label])


@dataclass
class _Files:
    """Decoded files: images stacked in one tensor, the others separate."""

    config: DataConfig
    arrays: dict[File, np.ndarray | MediaError] = field(default_factory=dict)
    clips: dict[Path, Tensor] = field(default_factory=dict)
    numbers: dict[Path, int] = field(default_factory=dict)
    pixels: list[Tensor] = field(default_factory=list)

    def add(self, file: File, result: np.ndarray | MediaError) -> None:
        modality, path = file
        if modality == "image" and isinstance(result, np.ndarray):
            self.numbers[path] = len(self.pixels)
            self.pixels.append(torch.from_numpy(result))
        else:
            self.arrays[file] = result

    @property
    def frames(self) -> Tensor:
        """Images, uint8 [N, C, S, S]; at least one, which rows without an image refer to."""
        size, channels = self.config.image_size, self.config.image_channels
        empty = [torch.zeros(channels, size, size, dtype=torch.uint8)]
        return torch.stack(self.pixels or empty)

    def array(self, modality: str, path: Path) -> np.ndarray:
        result = self.arrays[modality, path]
        if isinstance(result, MediaError):
            raise result
        return result

    def number(self, path: Path) -> int:
        if path not in self.numbers:
            self.array("image", path)  # raises the error of the file
        return self.numbers[path]

    def clip(self, path: Path) -> Tensor:
        if path not in self.clips:
            self.clips[path] = torch.from_numpy(self.array("audio", path))
        return self.clips[path]


@contextmanager
def _named(manifest: Manifest, row: Row) -> Iterator[None]:
    """Prefix an error with the manifest and the row."""
    try:
        yield
    except FusionError as error:
        kind = type(error) if isinstance(error, DataError) else ManifestError
        raise kind(f"{manifest.path}, {row.where}: {error}") from None


def _texts(manifest: Manifest, table: list[Row], config: DataConfig, bad: BadRows) -> list[str]:
    result = []
    for row in table:
        if row.text is not None:
            with bad.row(row.where), _named(manifest, row):
                text.check(row.text, config)
                result.append(row.text)
    return result


def _series(
    manifest: Manifest, table: list[Row], config: DataConfig, bad: BadRows, num_workers: int
) -> list[np.ndarray]:
    """Return the usable series of the rows, which must all have as many variables.

    A file that several rows name appears once for each.
    """
    files = dict(decode(table, ["series"], config, num_workers))
    result: list[np.ndarray] = []
    for row in table:
        if row.series is None:
            continue
        with bad.row(row.where), _named(manifest, row):
            if isinstance(row.series, Path):
                values = files["series", row.series]
                if isinstance(values, MediaError):
                    raise values
            else:
                values = row.series
                series.check_size(values, config)
            if result and values.shape[1] != result[0].shape[1]:
                raise MediaError(
                    f"a series of {plural(values.shape[1], 'variable')}, but others have "
                    f"{result[0].shape[1]}; give all rows the same number"
                )
            result.append(values)
    return result


def _target(path: Path, table: list[Row]) -> Scale:
    values = np.array([float(str(row.label)) for row in table])
    ((mean, deviation),) = scales([values[:, None]])
    if np.ptp(values) > 0 and (mean, deviation) == (values[0], 1):  # treated as a constant
        raise ManifestError(
            f"{path}: the training labels differ from their mean, {mean:g}, by no more than "
            "rounding error; subtract the mean from them"
        )
    return mean, deviation
