"""Say in plain words whether a fusion is worth its price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..strings import number, plural


def verdict(found: Mapping[str, Any]) -> str:
    """Compare the main model with the best other one, and name the price of both.

    The best of several models is chosen by its score on the rows that compare it, so its score is
    optimistic. Therefore the sentence says how many there were.

    Args:
        found: `main`, `score`, `rows`, `models` and `comparison` of evaluation.json.
    """
    main, comparison = found["main"], found["comparison"]
    if not comparison:
        return (
            f"{main} was compared with no other model, so nothing shows whether it is worth its "
            "price; fit with baselines"
        )
    best = comparison[0]
    other, gain, count = best["model"], best["gain"], len(comparison)
    best_of = f"{other}, the best of {count} other models" if count > 1 else other
    scores = (found["models"][name]["scores"][found["score"]]["value"] for name in (main, other))
    mine, theirs = map(number, scores)
    values = f"{found['score']} {mine} vs {theirs} on {plural(found['rows'], 'row')}"
    if None in gain.values():
        return f"These rows cannot show whether {main} is better than {best_of} ({values})"
    bounds = f"95% interval {gain['low']:+.3f} to {gain['high']:+.3f}"
    numbers = f"{values}, difference {gain['value']:+.3f}, {bounds}"
    price = _price(found["models"][main])
    if gain["low"] > 0:
        return f"{main} is better than {best_of}: {numbers}; it {price}"
    if gain["high"] < 0:
        words = f"Use {other} instead: {main} is worse ({numbers})"
        optimism = f"; {other} is the best of {count} other models on these rows, which flatters it"
        return words + (optimism if count > 1 else "")
    cheaper = _is_cheaper(found, other)
    advice = f"{other} is cheaper, as {main} {price}" if cheaper else f"{other} is not cheaper"
    return f"No significant difference between {main} and {best_of} ({numbers}): {advice}"


def _price(model: Mapping[str, Any]) -> str:
    seconds = model["seconds"]
    took = "" if seconds is None else f" and took {seconds:,.0f} s to train"
    return f"has {model['parameters']:,} parameters{took}"


def _is_cheaper(found: Mapping[str, Any], other: str) -> bool:
    """Whether another model needs no network, or a smaller one than the main model."""
    parameters = found["models"][other]["parameters"]
    return parameters is None or parameters < found["models"][found["main"]]["parameters"]
