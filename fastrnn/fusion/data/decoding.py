"""Decode the files of a manifest to arrays: images, audio clips and numeric series.

Every file is decoded on a single thread, so the values depend neither on the number of worker
processes nor on the number of cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ..config.inputs import modality_of
from ..config.preprocessing import Preprocessing
from ..config.schema import DataConfig
from ..errors import MediaError
from ..tasks.scale import Scale
from .audio import log_mel, read_audio
from .cache import ArrayCache
from .columns import file_column
from .image import read_image
from .local_file import local_file
from .manifest import Manifest
from .preprocessing import read_clip
from .ragged import Ragged, distinct
from .timeseries import check_size, read_series, standardise


@dataclass
class MediaFiles:
    """The distinct files of one input of a manifest.

    Attributes:
        numbers: the numbers of the files that each row of the manifest names, int32.
    """

    modality: str
    root: Path
    config: DataConfig
    names: pa.Array  # of strings: the name of each file
    numbers: Ragged
    scale: tuple[Scale, ...] = ()  # of the variables of a series
    cache: ArrayCache | None = None
    first_slot: int = 0  # of the cache
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        name: str,
        config: DataConfig,
        scale: tuple[Scale, ...],
        preprocessing: Preprocessing,
    ) -> MediaFiles:
        """List the distinct files of an input."""
        numbers, files = distinct(manifest.rows.column(file_column(name)))
        modality, root, names = modality_of(name), manifest.root, files.cast(pa.string())
        return cls(modality, root, config, names, numbers, scale, preprocessing=preprocessing)

    def __len__(self) -> int:
        return len(self.names)

    def load(self, number: int) -> np.ndarray:
        """Return a file's array, from the cache if it is there.

        Returns:
            Images: uint8 [C, H, W]. Clips: float32 [F, mels], log-mel frames, or as their encoder
            declares. Series: float32 [L, K], standardised.

        Raises:
            MediaError: the file does not exist or cannot be used; the message names it.
        """
        if self.cache is None:
            return self.decode(number)
        found = self.cache.get(self.first_slot + number)
        if found is None:
            value = self.decode(number)
            self.cache.put(self.first_slot + number, value)
            return value
        if self.modality == "image":
            return found.reshape(self._shape)
        return found.view(np.float32).reshape(self._shape)

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        image, audio = self.preprocessing.image, self.preprocessing.audio
        if self.modality == "image" and image:
            return (image.channels, image.height, image.width)
        if self.modality == "audio" and audio:
            return (-1, audio.bands) if audio.bands else (-1,)
        return (-1, self.config.mels if self.modality == "audio" else len(self.scale))

    def decode(self, number: int) -> np.ndarray:
        """Decode a file; see `load`."""
        name = self.names[number].as_py()
        with local_file(self.root, name, self.config) as path:
            if self.modality == "image":
                return read_image(path, self.config, self.preprocessing.image)
            if self.modality == "audio":
                with _one_thread():
                    if self.preprocessing.audio:
                        return read_clip(path, self.config, self.preprocessing.audio)
                    return log_mel(read_audio(path, self.config), self.config).numpy()
            try:
                return standardise(_series(path, name, self.config), self.scale)
            except MediaError as error:
                raise error if str(path) in str(error) else MediaError(f"{path}: {error}") from None


def series_of(manifest: Manifest, name: str, row: int, config: DataConfig) -> np.ndarray | None:
    """Read a series of a row, from its cell or its file: float64 [L, K], or None.

    Raises:
        MediaError: it cannot be used.
    """
    values = manifest.rows.values(name, row)
    if values is not None:
        check_size(values, config)
        return values
    file = manifest.rows.column(file_column(name))[row].as_py()
    if file is None:
        return None
    with local_file(manifest.root, file, config) as path:
        return _series(path, file, config)


def _series(path: Path, name: str, config: DataConfig) -> np.ndarray:
    return read_series(path, config, os.path.splitext(name)[1])


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
