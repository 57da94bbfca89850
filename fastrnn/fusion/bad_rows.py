"""Rows that cannot be used: an error, or left out and listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ConfigError, DataError

ON_BAD_ROW = ("error", "skip")


class BadRows:
    """`with bad.row(where):` around the work on a row; what it raises ends it, or is listed.

    Args:
        on_bad_row: "error" or "skip".

    Raises:
        ConfigError: on_bad_row is another.
    """

    def __init__(self, on_bad_row: str) -> None:
        if on_bad_row not in ON_BAD_ROW:
            raise ConfigError(f"on_bad_row is one of {', '.join(ON_BAD_ROW)}; got {on_bad_row!r}")
        self.skip = on_bad_row == "skip"
        self.listed: list[tuple[str, str]] = []  # (where, error)

    @contextmanager
    def row(self, where: str) -> Iterator[None]:
        """The work on one row; a DataError within it is raised, or listed."""
        try:
            yield
        except DataError as error:
            if not self.skip:
                raise
            self.listed.append((where, str(error)))
