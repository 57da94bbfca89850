"""Tables for the terminal and in Markdown, and generated blocks of a document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate


def aligned(rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """Return the lines of a table for the terminal.

    Args:
        words: the number of text columns. They come first and are aligned to the left; the numbers
            are aligned to the right.
    """
    sides = ["left"] * words + ["right"] * (len(rows[0]) - words)
    text = tabulate(rows, tablefmt="plain", colalign=sides, disable_numparse=True)
    return text.splitlines()


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> list[str]:
    """Return the lines of a Markdown table.

    Unlike tabulate's, its cells are not padded, so that a new number changes only one line of a
    document.

    Args:
        words: as for `aligned`.
    """
    rule = ["---"] * words + ["--:"] * (len(header) - words)
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def legend(columns: Mapping[str, str]) -> list[str]:
    """Return the meanings of columns as the lines of a Markdown list."""
    return [f"- *{name}*: {meaning}." for name, meaning in columns.items()]


def replace(document: Path, name: str, text: str) -> None:
    """Replace the generated block with this name in a document.

    Raises:
        SystemExit: the document has no such block.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = document.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise SystemExit(f"{document} needs the lines {begin} and {end} around the generated text")
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}")
