"""Files to arrays, each once, in the order of the rows that name them; in processes if wanted.

A file is decoded on one thread wherever that happens, so the numbers are the same with any number
of worker processes, and on a machine with any number of cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from . import media
from .config import DataConfig
from .errors import ConfigError, MediaError
from .rows import Row
from .series import read_series

File = tuple[str, Path]  # modality, file

_AHEAD = 4  # files that each worker decodes ahead of what is asked for


def decode(
    rows: Iterable[Row], modalities: Iterable[str], config: DataConfig, workers: int = 0
) -> Iterator[tuple[File, np.ndarray | MediaError]]:
    """Every distinct file of the rows, and what it holds or what is wrong with it.

    Images are uint8 [C, S, S], clips float32 [F, mels] log-mel frames, series float64 [L, K].

    Args:
        modalities: whose files to decode.
        workers: processes that decode; 0: this one.
    """
    if workers < 0:
        raise ConfigError(f"workers is at least 0; got {workers}")
    wanted = set(modalities)
    files = list(dict.fromkeys(file for row in rows for file in row.files if file[0] in wanted))
    results: Iterable[np.ndarray | str]
    if workers == 0 or len(files) < 2:
        results = _here(files, config)
    else:
        results = DataLoader(
            _Files(files, config),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=min(workers, len(files)),
            prefetch_factor=_AHEAD,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            generator=torch.Generator(),  # else it draws from torch's own, which seeds the model
        )
    for file, result in zip(files, results, strict=True):
        yield file, MediaError(result) if isinstance(result, str) else result


def decode_file(file: File, config: DataConfig) -> np.ndarray | str:
    """One file's array, or what is wrong with it; as text, which any process can send."""
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
    """A data set of files, for torch's loader."""

    def __init__(self, files: list[File], config: DataConfig) -> None:
        self.files = files
        self.config = config

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray | str:
        return decode_file(self.files[index], self.config)


def _as_it_is(value: np.ndarray | str) -> np.ndarray | str:
    """Arrays travel by pipe: a tensor in shared memory would hold a file descriptor for good."""
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
