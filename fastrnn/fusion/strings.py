"""Helpers for the text of messages and tables."""

from __future__ import annotations

import unicodedata

_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def plural(count: int, noun: str) -> str:
    """Format a number with its noun: 1 row, 2 rows."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def number(value: float | None) -> str:
    """Format a score with three decimals; None, an undefined value, becomes a dash."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def count(value: int | None) -> str:
    """Format a number of parameters; None, a model without a network, becomes a dash."""
    return "–" if value is None else f"{value:,}"


def composed(name: str) -> str:
    """Normalise a name for comparison (Unicode NFC): an accent may be a separate character."""
    return unicodedata.normalize("NFC", name)


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded as UTF-8.

    Half of a surrogate pair cannot be encoded. JSON may contain one, and Python decodes a command
    line argument that is not UTF-8 to such halves.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def separator(line: str) -> str | None:
    """Return the plural name of a line's separator, or None if it is the comma."""
    for character, called in _SEPARATORS.items():
        if line.count(character) > line.count(","):
            return called
    return None
