"""Read numeric time series, [L] or [L, K], from a cell, a .csv or a .npy file, as float64 [L, K].

The files are untrusted: sizes are limited before reading, and nothing is unpickled.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from ..config.schema import DataConfig
from ..errors import MediaError
from ..strings import plural, separator
from ..tasks.labels import number
from ..tasks.scale import FARTHEST, LARGEST, Scale

ENDINGS = (".csv", ".npy")

_BYTES = 32  # maximum bytes per number of a .csv file; a larger file is rejected unread
_HEADER = 10_000  # maximum bytes of the header of a .npy or .csv file


def as_series(values: Any) -> np.ndarray:
    """Convert a list of numbers [L], or of equally long lists of numbers [L, K], to float64 [L, K].

    Raises:
        MediaError: it is empty, ragged, not numeric, not finite, or too large to be squared.
    """
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError, RecursionError):
        raise MediaError(
            "the lists differ in length; give every step the same number of values"
        ) from None
    if array.size == 0 or array.ndim not in (1, 2):
        raise MediaError(
            f"invalid series of shape {list(array.shape)}; write a list of numbers, or a list of "
            "lists of numbers"
        )
    if array.dtype.kind not in "iuf":
        raise MediaError("some values of the series are not numbers; fix them, or remove the row")
    # float32 would lose small differences of large numbers.
    array = np.ascontiguousarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise MediaError(
            "some numbers of the series are missing or not finite; fill them in, or remove the row"
        )
    if np.abs(array).max() > LARGEST:
        raise MediaError(f"some numbers of the series are beyond ±{LARGEST:g}; use larger units")
    return array.reshape(len(array), -1)


def check_size(series: np.ndarray, config: DataConfig) -> None:
    """Check that a series has at most max_series numbers.

    Raises:
        MediaError: it has more.
    """
    if series.size > config.max_series:
        raise _too_large(plural(series.size, "number"), config)


def read_series(path: Path, config: DataConfig, ending: str | None = None) -> np.ndarray:
    """Read a series from a file, float64 [L, K].

    A .csv file has one line per step, one number per variable, and an optional header.

    Args:
        ending: the format, .csv or .npy; by default the extension of the path.

    Raises:
        MediaError: another format, too large, damaged, ragged or not finite; names the file.
    """
    readers = {".csv": _read_csv, ".npy": _read_npy}
    reader = readers.get((path.suffix if ending is None else ending).lower())
    if reader is None:
        raise MediaError(f"{path}: a series file must end in {' or '.join(ENDINGS)}; convert it")
    try:
        return as_series(reader(path, config))
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None
    except Exception as error:  # numpy parses a header as Python, so it may raise any exception
        raise MediaError(
            f"{path}: the series cannot be read ({str(error)[:200]}); replace the file, or remove "
            "the row"
        ) from None


def _read_npy(path: Path, config: DataConfig) -> np.ndarray:
    # Memory-mapped: the header may claim any size, and objects cannot be mapped.
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
                if reader.line_num == 1 and all(number(cell) is None for cell in cells):
                    continue  # the header
                line = ",".join(cells)
                other = separator(line)
                raise MediaError(
                    f"line {reader.line_num}: {line[:40]!r} has values that are not numbers; "
                    + (f"separate them with commas, not {other}" if other else "fix it")
                ) from None
            total += len(cells)
            if total > config.max_series:
                raise _too_large(f"more than {plural(config.max_series, 'number')}", config)
    return steps


def _too_large(size: str, config: DataConfig) -> MediaError:
    return MediaError(
        f"the series has {size}, but at most {plural(config.max_series, 'number')} are allowed; "
        "shorten it, subsample it, or raise --max-series"
    )


def standardise(series: np.ndarray, scale: tuple[Scale, ...]) -> np.ndarray:
    """Subtract the mean of each variable and divide by its deviation: float32 [L, K].

    Raises:
        MediaError: the series has another number of variables, or values far outside the training
            range.
    """
    if series.shape[1] != len(scale):
        raise MediaError(
            f"the series has {plural(series.shape[1], 'variable')}, but {len(scale)} in training; "
            "give all rows the same number of variables"
        )
    mean, deviation = np.array(scale).T
    result = (series - mean) / deviation
    if np.abs(result).max() > FARTHEST:
        raise MediaError(
            f"a number of the series is more than {FARTHEST:g} standard deviations from the "
            "training mean; fix it, or remove the row"
        )
    return result.astype(np.float32)
