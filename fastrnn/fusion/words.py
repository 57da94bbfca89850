"""Words: of messages, and of tables."""

from __future__ import annotations

import unicodedata

_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def plural(number: int, noun: str) -> str:
    """1 row, 2 rows."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def composed(name: str) -> str:
    """A name as it is compared (Unicode's NFC): an accent may also be a character of its own."""
    return unicodedata.normalize("NFC", name)


def is_unicode(text: str) -> bool:
    """Whether a file can hold the text.

    It cannot hold half of a surrogate pair, as JSON may write it. A name on the command line that
    is not UTF-8 has such halves too.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def separator(line: str) -> str | None:
    """What separates the cells of a line instead of commas, in words; None where commas do."""
    for character, called in _SEPARATORS.items():
        if line.count(character) > line.count(","):
            return called
    return None
