"""Tables as text, and their place in a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def aligned(rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """The rows as lines, their cells one below the other: so many of words left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < words else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> list[str]:
    """The same in Markdown."""
    rule = ["---"] * words + ["--:"] * (len(header) - words)
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def replace(document: Path, name: str, text: str) -> None:
    """Put a text between the marks of that name in a document.

    Raises:
        SystemExit: they are not there.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = document.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise SystemExit(f"{document} lacks the lines {begin} and {end}: the text goes there")
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}")
