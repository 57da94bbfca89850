"""Numeric time series: [L] or [L, K] numbers of a cell, a .csv or a .npy file, as float64 [L, K].

Anyone may have made the files: sizes are capped before they are read, and nothing is unpickled.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import DataConfig
from .errors import MediaError
from .scale import FARTHEST, LARGEST, Scale, scales
from .words import plural, separator

ENDINGS = (".csv", ".npy")

_BYTES = 32  # of a number in a .csv file, at most: a longer file is refused unread
_HEADER = 10_000  # bytes of a .npy file's, or of a .csv file's beyond its numbers


def as_series(values: Any) -> np.ndarray:
    """A list of numbers [L], or of equally long lists of numbers [L, K], as float64 [L, K].

    Raises:
        MediaError: empty, uneven, not numbers, not finite, or too large to be squared.
    """
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError, RecursionError):
        raise MediaError("the lists differ in length; give each step as many numbers") from None
    if array.size == 0 or array.ndim not in (1, 2):
        raise MediaError(
            f"a series of shape {list(array.shape)}; write a list of numbers, or of lists of them"
        )
    if array.dtype.kind not in "iuf":
        raise MediaError("something in the series is no number; mend it, or remove the row")
    # Not float32, which would lose small differences of large numbers.
    array = np.ascontiguousarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise MediaError(
            "some numbers of the series are missing or not finite; fill them, or remove the row"
        )
    if np.abs(array).max() > LARGEST:
        raise MediaError(
            f"some numbers of the series are beyond ±{LARGEST:g}; give it in larger units"
        )
    return array.reshape(len(array), -1)


def check_size(series: np.ndarray, config: DataConfig) -> None:
    """Refuse a series of more numbers than max_series.

    Raises:
        MediaError: it has more.
    """
    if series.size > config.max_series:
        raise _too_large(plural(series.size, "number"), config)


def read_series(path: Path, config: DataConfig) -> np.ndarray:
    """A series from a file, float64 [L, K].

    A .csv file has a step a line, one number a variable, and perhaps a header.

    Raises:
        MediaError: another format, too large, damaged, uneven or not finite; names the file.
    """
    readers = {".csv": _read_csv, ".npy": _read_npy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise MediaError(f"{path}: a series ends in {' or '.join(ENDINGS)}; convert it")
    try:
        return as_series(reader(path, config))
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None
    except Exception as error:  # numpy parses a header as Python, so nearly anything
        raise MediaError(
            f"{path}: no series that can be read ({str(error)[:200]}); replace the file, or remove "
            "the row"
        ) from None


def _read_npy(path: Path, config: DataConfig) -> np.ndarray:
    # Mapped, not read: the header may claim any size, and objects cannot be mapped at all.
    array = np.lib.format.open_memmap(path, mode="r", max_header_size=_HEADER)
    if array.size > config.max_series:
        raise _too_large(plural(array.size, "number"), config)
    return np.array(array)


def _read_csv(path: Path, config: DataConfig) -> list[list[float]]:
    size = path.stat().st_size
    if size > _BYTES * config.max_series + _HEADER:
        raise _too_large(plural(size, "byte"), config)
    steps: list[list[float]] = []
    total = 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        for cells in reader:
            if not cells:
                continue
            try:
                steps.append([float(cell) for cell in cells])
            except ValueError:
                if reader.line_num == 1:
                    continue  # the header
                line = ",".join(cells)
                other = separator(line)
                raise MediaError(
                    f"line {reader.line_num}: {line[:40]!r} is not all numbers; "
                    + (f"separate them by commas, not by {other}" if other else "mend it")
                ) from None
            total += len(cells)
            if total > config.max_series:
                raise _too_large(f"more than {plural(config.max_series, 'number')}", config)
    return steps


def _too_large(size: str, config: DataConfig) -> MediaError:
    return MediaError(
        f"a series of {size}, with {plural(config.max_series, 'number')} allowed; "
        "shorten it, or take every so-many-th step"
    )


def statistics(several: Iterable[np.ndarray]) -> tuple[Scale, ...]:
    """Mean and standard deviation of each variable over all steps of all series [L, K].

    Raises:
        MediaError: the series differ in their number of variables.
    """
    several = list(several)
    for each in several:
        if each.shape[1] != several[0].shape[1]:
            raise MediaError(
                f"series of {plural(several[0].shape[1], 'variable')} and of {each.shape[1]}; "
                "give all rows the same"
            )
    return scales(several)


def standardise(series: np.ndarray, scale: tuple[Scale, ...]) -> Tensor:
    """float32 [L, K]: each variable less its mean, over its deviation.

    Raises:
        MediaError: the series has another number of variables, or numbers of quite another size.
    """
    if series.shape[1] != len(scale):
        raise MediaError(
            f"a series of {plural(series.shape[1], 'variable')}, where training had {len(scale)}; "
            "give all rows the same"
        )
    mean, deviation = np.array(scale).T
    result = (series - mean) / deviation
    if np.abs(result).max() > FARTHEST:
        raise MediaError(
            f"a number of the series is over {FARTHEST:g} deviations from the mean of those in "
            "training; mend it, or remove the row"
        )
    return torch.from_numpy(result.astype(np.float32))
