"""Building blocks of an HTML page. Other text is escaped; the page loads no external content."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NewType

Html = NewType("Html", str)  # already escaped

_CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5a6370; --line: #d9dee4; --ground: #fff;
  --raised: #f5f7f9; --good: #0b6e4f; --bad: #a3281f; --even: #7a5b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a2abb6; --line: #3a424c;
  --ground: #14181d; --raised: #1e242b; --good: #5fd0a5; --bad: #ff9a8f; --even: #e8c55c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .7rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .3rem 0 .7rem; max-width: 75ch; }
p.lead, figcaption { color: var(--soft); }
.headline { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem .8rem; }
.headline b { font-size: 2.6rem; line-height: 1.1; font-variant-numeric: tabular-nums; }
.verdict { border-left: 4px solid var(--even); padding: .1rem 0 .1rem .7rem; margin: .5rem 0;
  max-width: 90ch; }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .3rem 0 .8rem; }
th, td { text-align: right; padding: .35rem .7rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td small { display: block; color: var(--soft); font-size: .72rem; white-space: nowrap; }
table.results tbody tr:first-child td:first-child { font-weight: 600; }
table.facts td { text-align: left; overflow-wrap: anywhere; }
table.facts td:first-child { color: var(--soft); font-weight: 400; white-space: nowrap; }
.figures, .cards { display: grid; gap: 18px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); margin: .8rem 0; }
figure { margin: 0; }
img { width: 100%; height: auto; display: block; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); }
figcaption { font-size: .85rem; padding-top: .25rem; }
.card { background: var(--raised); border-radius: 8px; padding: .8rem; overflow: hidden; }
.card h4 { margin: 0; font-size: .95rem; overflow-wrap: anywhere; }
.card p { margin: .1rem 0 .5rem; font-size: .9rem; overflow-wrap: anywhere; }
.right { color: var(--good); } .wrong { color: var(--bad); }
.tokens { line-height: 2; overflow-wrap: anywhere; margin: .2rem 0 .6rem; }
.tokens span { color: #111; padding: .12em 0; white-space: pre-wrap; }
pre { background: var(--raised); border-radius: 6px; padding: .7rem; overflow-x: auto;
  font-size: .85rem; }
@media (max-width: 520px) { table { font-size: .88rem; } th, td { padding: .3rem .35rem; } }
"""


def text(value: Any) -> Html:
    """Convert a value to escaped text: markup in it is shown literally."""
    return Html(html.escape(str(value)))


def join(parts: Iterable[Html]) -> Html:
    """Join the parts that are not empty with newlines."""
    return Html("\n".join(each for each in parts if each))


def whole(title: str, body: Html) -> str:
    """Return a complete document. Its security policy forbids loading or running anything."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{text(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: Html) -> Html:
    """Return a section of the page with a title."""
    return Html(f"<section>\n<h2>{text(title)}</h2>\n{body}\n</section>")


def block(body: Html) -> Html:
    """Return a section without a title."""
    return Html(f"<section>\n{body}\n</section>")


def heading(words: str) -> Html:
    """Return a heading within a section."""
    return Html(f"<h3>{text(words)}</h3>")


def lead(words: str) -> Html:
    """Return an introductory paragraph."""
    return Html(f'<p class="lead">{text(words)}</p>')


def headline(value: str, words: str) -> Html:
    """Return the headline of the page: one number and its description."""
    return Html(f'<p class="headline"><b>{text(value)}</b> <span>{text(words)}</span></p>')


def verdict(words: str, low: float | None) -> Html:
    """Return a comparison, coloured by whether the difference is significant."""
    kind = "bad" if " BETTER " in words else "good" if low is not None and low > 0 else ""
    return Html(f'<p class="verdict {kind}">{text(words)}</p>')


def code(lines: str) -> Html:
    """Return a block of commands."""
    return Html(f"<pre>{text(lines)}</pre>")


def table(head: Sequence[Any] | None, rows: Iterable[Sequence[Any]], kind: str = "") -> Html:
    """Return a table. A cell is text, or a `Cell` such as `interval` returns."""
    top = ""
    if head is not None:
        top = "<thead><tr>" + "".join(f"<th>{text(each)}</th>" for each in head) + "</tr></thead>"
    body = "\n".join(
        "<tr>" + "".join(f"<td>{_cell(each)}</td>" for each in row) + "</tr>" for row in rows
    )
    name = f' class="{kind}"' if kind else ""
    return Html(f'<div class="scroll"><table{name}>{top}<tbody>{body}</tbody></table></div>')


class Cell(str):
    """A table cell that is already HTML."""


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, Cell) else text(value)


def interval(score: Mapping[str, float | None]) -> Cell:
    """Return a score with the bounds of its interval in small print."""
    bounds = f"{number(score['low'])} to {number(score['high'])}"
    return Cell(f"{number(score['value'])}<small>{bounds}</small>")


def number(value: float | None) -> str:
    """Format a number with three decimals; None, an undefined value, becomes a dash."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def changed(value: float | None, less: float | None) -> Cell:
    """Return a score with its change in small print; `less` is the loss."""
    loss = "–" if less is None else f"{-less:+.3f}".replace("-", "−")
    return Cell(f"{number(value)}<small>{loss}</small>")


def picture(path: Path, words: str) -> Html:
    """Embed a PNG file in the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return Html(f'<img alt="{text(words)}" src="data:image/png;base64,{data}">')


def figures(drawn: Iterable[tuple[Path, str]]) -> Html:
    """Return pictures with captions, side by side if there is room."""
    parts = [
        f"<figure>{picture(path, words)}<figcaption>{text(words)}</figcaption></figure>"
        for path, words in drawn
    ]
    return Html('<div class="figures">' + "\n".join(parts) + "</div>") if parts else Html("")


def cards(bodies: Iterable[Html]) -> Html:
    """Return boxes, side by side if there is room."""
    parts = "\n".join(f'<div class="card">{body}</div>' for body in bodies)
    return Html(f'<div class="cards">{parts}</div>')


def card_title(name: str, words: str, right: bool) -> Html:
    """Return the title of a card: the row, and whether its prediction is right."""
    mark = '<span class="right">✓</span>' if right else '<span class="wrong">✗</span>'
    return Html(f"<h4>{mark} {text(name)}</h4><p>{text(words)}</p>")


def tokens(each: Sequence[Mapping[str, Any]]) -> Html:
    """Colour tokens by their attribution: red supports the prediction, blue opposes it."""
    most = max((abs(token["attribution"] or 0.0) for token in each), default=0.0) or 1.0
    parts = []
    for token in each:
        adds = token["attribution"] or 0.0
        colour = "214, 96, 77" if adds > 0 else "67, 147, 195"
        # mixed with white, so that black letters stay readable on a dark page too
        share = 0.85 * abs(adds) / most
        shade = f"linear-gradient(rgba({colour}, {share:.2f}), rgba({colour}, {share:.2f})), #fff"
        parts.append(
            f'<span style="background: {shade}" title="{adds:+.3f}">{text(token["name"])}</span>'
        )
    return Html(f'<p class="tokens">{"".join(parts)}</p>')
