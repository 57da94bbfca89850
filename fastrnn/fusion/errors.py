"""What goes wrong with a user's files or options, said so that the user can mend it."""

from __future__ import annotations


class FusionError(ValueError):
    """The base of all below; the command line prints these without a traceback."""


class ConfigError(FusionError):
    """Options that do not go together, or a configuration of another version."""


class DataError(FusionError):
    """A manifest, or a file it names, cannot be used; the text names it and says what to do."""


class ManifestError(DataError):
    """The table itself: a column, a row, a label or the split."""


class MediaError(DataError):
    """One image, clip or text."""


def reason(error: OSError) -> str:
    """One line for what the system refused: the file, and why."""
    if error.strerror is None:  # raised by a library, with a text of its own
        return " ".join(str(error).split()) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
