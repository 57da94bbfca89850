"""Which rows train the model, which choose between models, and which judge it.

A `split` column decides (train, val, test). Without one, rows are dealt 80/10/10 by seed, each
label in proportion and at least once to train. With a split column but no val rows, a tenth of
the training rows becomes val.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping

from .errors import ManifestError
from .manifest import Manifest

SPLITS = ("train", "val", "test")


def split_rows(manifest: Manifest, seed: int = 0) -> dict[str, list[int]]:
    """Deal the rows: split name -> row numbers, each sorted. `test` may be absent.

    Raises:
        ManifestError: too few rows, only one label to learn, or a label that only val or test has.
    """
    rows, path = manifest.rows, manifest.path
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    if "split" in manifest.columns:
        for index, row in enumerate(rows):
            parts[row.split or "train"].append(index)
        if not parts["val"] and len(parts["train"]) >= 2:
            parts["train"], parts["val"] = _deal(manifest, parts["train"], 0.1, seed)
    else:
        if len(rows) < 10:
            raise ManifestError(
                f"{path}: {len(rows)} rows are too few to deal into train, val and test; "
                "give at least 10, or a split column"
            )
        parts["train"], rest = _deal(manifest, range(len(rows)), 0.2, seed)
        parts["test"], parts["val"] = _deal(manifest, rest, 0.5, seed + 1, keep_one=False)
    for name in ("train", "val"):
        if not parts[name]:
            raise ManifestError(f"{path}: no row is left for {name}; give more rows")
    _check_labels(manifest, parts)
    return {name: sorted(part) for name, part in parts.items() if part}


def label_names(manifest: Manifest, indices: Iterable[int]) -> tuple[str, ...]:
    """The labels of some rows, sorted: as numbers where all are numbers, else as words."""
    names: set[str] = set()
    for index in indices:
        label = manifest.rows[index].label
        labels = (label,) if isinstance(label, str) else label
        names.update(name for name in labels if name is not None)
    try:
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _deal(
    manifest: Manifest, indices: Iterable[int], share: float, seed: int, keep_one: bool = True
) -> tuple[list[int], list[int]]:
    """Deal rows in two, `share` of them (at least one, where there are any) to the second.

    Rows are shuffled within their label and every so-many-th is dealt away, so labels stay in
    proportion and rare ones add up. `keep_one` keeps one row of each label in the first part.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index in indices:
        label = manifest.rows[index].label
        groups[label if isinstance(label, str) else ""].append(index)
    dice = random.Random(seed)
    order: list[int] = []
    kept: list[int] = []
    for name in sorted(groups):
        members = groups[name]
        dice.shuffle(members)
        order += members[keep_one:]
        kept += members[:keep_one]
    count = min(len(order), max(1, round(share * (len(order) + len(kept)))))
    second = [order[(2 * each + 1) * len(order) // (2 * count)] for each in range(count)]
    chosen = set(second)
    return kept + [index for index in order if index not in chosen], second


def _check_labels(manifest: Manifest, parts: Mapping[str, list[int]]) -> None:
    seen = set(label_names(manifest, parts["train"]))
    if len(seen) < 2:
        only = next(iter(seen), "none")
        raise ManifestError(
            f"{manifest.path}: the training rows have one label ({only}); at least two are needed"
        )
    for name in ("val", "test"):
        for index in parts[name]:
            unseen = [label for label in label_names(manifest, [index]) if label not in seen]
            if unseen:
                raise ManifestError(
                    f"{manifest.path}, {manifest.rows[index].where}: the label {unseen[0]!r} is in "
                    f"{name} but never in train; add training rows that have it, or remove this row"
                )
