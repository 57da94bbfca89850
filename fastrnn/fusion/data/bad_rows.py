"""What happens to rows that cannot be used: raise an error, or skip and list them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError, DataError, FusionError, ManifestError

ON_BAD_ROW = ("error", "skip")
SKIPPED = "skipped.jsonl"  # in a run's folder: the skipped rows and their errors


class BadRows:
    """Raises or collects the errors of rows: process each row inside `with bad.row(where):`.

    Args:
        on_bad_row: "error" to raise a row's error, "skip" to list it.

    Raises:
        ConfigError: on_bad_row is neither.
    """

    def __init__(self, on_bad_row: str) -> None:
        if on_bad_row not in ON_BAD_ROW:
            raise ConfigError(
                f"on_bad_row must be one of {', '.join(ON_BAD_ROW)}; got {on_bad_row!r}"
            )
        self.skip = on_bad_row == "skip"
        self.listed: list[tuple[str, str]] = []  # (where, error)

    @contextmanager
    def row(self, where: str) -> Iterator[None]:
        """Process one row; a DataError raised inside propagates, or is listed."""
        try:
            yield
        except DataError as error:
            self.add(where, error)

    def add(self, where: str, error: DataError) -> None:
        """Raise the error of a row, or list it."""
        if not self.skip:
            raise error from None
        self.listed.append((where, str(error)))


def located(path: Path, where: str, error: FusionError) -> DataError:
    """Return the error with the table and the row in front of its message."""
    kind = type(error) if isinstance(error, DataError) else ManifestError
    return kind(f"{path}, {where}: {error}")
