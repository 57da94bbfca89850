"""Decode files to arrays, each once, in the order of their rows, optionally in worker processes.

Every file is decoded on a single thread, so the values depend neither on the number of worker
processes nor on the number of cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..config.schema import DataConfig
from ..errors import ConfigError, MediaError
from . import media
from .rows import Row
from .timeseries import read_series

File = tuple[str, Path]  # modality, file

_AHEAD = 4  # files that each worker prefetches


def decode(
    rows: Iterable[Row], modalities: Iterable[str], config: DataConfig, num_workers: int = 0
) -> Iterator[tuple[File, np.ndarray | MediaError]]:
    """Yield every distinct file of the rows with its array, or the error that it raised.

    Images are uint8 [C, S, S], clips are float32 [F, mels] log-mel frames, series are float64
    [L, K].

    Args:
        rows: the rows that name the files.
        modalities: modalities whose files to decode.
        config: how files become arrays.
        num_workers: number of worker processes; 0 decodes in this process.

    Raises:
        ConfigError: num_workers is negative.
    """
    if num_workers < 0:
        raise ConfigError(f"num_workers must be at least 0; got {num_workers}")
    wanted = set(modalities)
    files = list(dict.fromkeys(file for row in rows for file in row.files if file[0] in wanted))
    results: Iterable[np.ndarray | str]
    if num_workers == 0 or len(files) < 2:
        results = _here(files, config)
    else:
        results = DataLoader(
            _Files(files, config),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=min(num_workers, len(files)),
            prefetch_factor=_AHEAD,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            generator=torch.Generator(),  # the default generator also seeds the model
        )
    for file, result in zip(files, results, strict=True):
        yield file, MediaError(result) if isinstance(result, str) else result


def decode_file(file: File, config: DataConfig) -> np.ndarray | str:
    """Return a file's array, or its error as text, which can be sent between processes."""
    modality, path = file
    try:
        if modality == "image":
            return media.read_image(path, config).numpy()
        if modality == "audio":
            return media.log_mel(media.read_audio(path, config), config).numpy()
        return read_series(path, config)
    except MediaError as error:
        return str(error)


class _Files:
    """A dataset of files for DataLoader."""

    def __init__(self, files: list[File], config: DataConfig) -> None:
        self.files = files
        self.config = config

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray | str:
        return decode_file(self.files[index], self.config)


def _as_it_is(value: np.ndarray | str) -> np.ndarray | str:
    """Return the value unchanged.

    Arrays are sent through a pipe: a tensor in shared memory would keep a file descriptor open.
    """
    return value


def _here(files: list[File], config: DataConfig) -> Iterator[np.ndarray | str]:
    for file in files:
        with _one_thread():
            result = decode_file(file, config)
        yield result


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
