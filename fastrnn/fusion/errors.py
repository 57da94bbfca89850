"""Errors in a user's files or options. Each message says how to fix the error."""

from __future__ import annotations


class FusionError(ValueError):
    """Base class of the errors below; the command line prints them without a traceback."""


class ConfigError(FusionError):
    """Invalid or contradictory options, or a configuration of another version."""


class DataError(FusionError):
    """A manifest or a file that it names cannot be used; the message names it and the remedy."""


class ManifestError(DataError):
    """An error in the table itself: a column, a row, a label or the split."""


class MediaError(DataError):
    """An error in one image, audio clip, text or series."""


class StorageError(FusionError, OSError):
    """A remote file cannot be read now, whether or not it exists: no network, or no permission.

    It is not an error of a row: skipping the row would hide it.
    """


def reason(error: OSError) -> str:
    """Describe an operating system error in one line: the file and the reason."""
    if error.strerror is None:  # raised by a library with its own message
        return " ".join(str(error).split()) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
