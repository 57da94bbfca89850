"""torch's DataLoader over a FusionDataset, with errors that name the row also from a worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..batch import Batch
from ..errors import ConfigError, DataError, FusionError
from .bad_rows import BadRows
from .collator import Collator
from .dataset import FusionDataset, Sample

_AHEAD = 2  # batches that each worker prepares in advance


class BatchLoader:
    """Iterates over batches of a dataset's rows.

    Args:
        dataset: the rows.
        batches: the rows of each batch. It is iterated over again in each pass.
        num_workers: number of processes that decode files and make batches; 0 for this process.
            The batches do not depend on it.
        pin_memory: whether to copy batches to pinned memory, for a GPU.
        persistent: whether the worker processes wait for another pass.

    Raises:
        ConfigError: num_workers is negative.
    """

    def __init__(
        self,
        dataset: FusionDataset,
        batches: Iterable[Sequence[int]],
        num_workers: int = 0,
        pin_memory: bool = False,
        persistent: bool = False,
    ) -> None:
        _check_workers(num_workers)
        options: dict[str, Any] = {}
        if num_workers:
            # A forked worker shares the memory of the dataset and of its cache.
            options = {
                "multiprocessing_context": "fork",
                "persistent_workers": persistent,
                "prefetch_factor": _AHEAD,
            }
        self._loader: DataLoader[Any] = DataLoader(
            _Caught(dataset),
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=_Collate(dataset.collator),
            pin_memory=pin_memory,
            generator=torch.Generator(),  # the default generator also seeds the model
            **options,
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            DataError: a file cannot be used; the message names the row and the file.
            StorageError: a remote file cannot be read now.
        """
        for batch in self._loader:
            if isinstance(batch, FusionError):
                raise batch
            yield batch


def _check_workers(num_workers: int) -> None:
    if num_workers < 0:
        raise ConfigError(f"num_workers must be at least 0; got {num_workers}")


class _Caught(Dataset[Sample | FusionError]):
    """Returns the error of a row: DataLoader would add the worker's traceback to its message."""

    def __init__(self, dataset: FusionDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample | FusionError:
        try:
            return self._dataset[index]
        except FusionError as error:
            return error


class _Collate:
    """Makes a batch, or returns the first error."""

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def __call__(self, samples: list[Sample | FusionError]) -> Batch | FusionError:
        sound: list[Sample] = []
        for each in samples:
            if isinstance(each, FusionError):
                return each
            sound.append(each)
        return self._collator(sound)


def check_files(
    dataset: FusionDataset, on_bad_row: str = "error", num_workers: int = 0
) -> FusionDataset:
    """Decode every row once; return the dataset without the rows that cannot be used.

    Decoded files are cached if the dataset has a cache with space.

    Raises:
        DataError: a row cannot be used and `on_bad_row` is "error", or no labelled row can be.
        ConfigError: num_workers is negative.
    """
    _check_workers(num_workers)
    bad = BadRows(on_bad_row)
    kept = []
    for index, error in enumerate(_errors(dataset, num_workers)):
        if error is None:
            kept.append(index)
        else:
            bad.add(dataset.where(index), error)
    if len(kept) == len(dataset):
        return dataset
    if not kept and dataset.encoded is not None:
        raise DataError(
            f"{dataset.manifest.path}: no row can be used; the first error: {bad.listed[0][1]}"
        )
    return dataset.select(kept, tuple(bad.listed))


def _errors(dataset: FusionDataset, num_workers: int) -> Iterator[DataError | None]:
    checks = _Checks(dataset)
    if num_workers == 0:
        yield from (checks[index] for index in range(len(dataset)))
        return
    yield from DataLoader(
        checks,
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context="fork",
        prefetch_factor=64,
        collate_fn=_identity,  # type: ignore[arg-type]
        generator=torch.Generator(),
    )


class _Checks(Dataset[DataError | None]):
    """The error of each row, or None."""

    def __init__(self, dataset: FusionDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> DataError | None:
        try:
            self._dataset[index]
        except DataError as error:
            return error
        return None


def _identity(value: DataError | None) -> DataError | None:
    return value
