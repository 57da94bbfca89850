"""Split rows into train, val and test: rows to train, to select and to evaluate models.

A `split` column (train, val, test) decides. Without it, rows are split 80/10/10 by seed, stratified
by label and with every label in train. If a split column has no val rows, a tenth of the training
rows becomes val.

Rows of one group, or rows that share an image, audio or series file, stay together (groups.py).
Labels and sizes then come as close to their shares as these sets allow. If a split column puts one
file into two splits, the manifest warns; if it puts one group into two splits, it raises an error.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from ..errors import ManifestError
from ..strings import plural
from ..tasks.labels import names_of, regression_hint, sort_names
from .groups import linked
from .manifest import Manifest

SPLITS = ("train", "val", "test")

_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
_VAL_OF_TRAIN = {"train": 0.9, "val": 0.1}
_BINS = 10  # strata of a regression's values


def split_rows(manifest: Manifest, seed: int = 0) -> dict[str, list[int]]:
    """Split the rows: split name -> sorted row numbers. `test` may be absent.

    Raises:
        ManifestError: too few rows, or too few independent sets of rows; only one label in train;
            or a label that only val or test has.
    """
    rows, path = manifest.rows, manifest.path
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    if "split" in manifest.columns:
        for index, row in enumerate(rows):
            parts[row.split or "train"].append(index)
        if not parts["val"] and len(parts["train"]) >= 2:
            parts |= _deal(manifest, parts["train"], _VAL_OF_TRAIN, seed)
    else:
        if len(rows) < 10:
            are = "is" if len(rows) == 1 else "are"
            raise ManifestError(
                f"{path}: {plural(len(rows), 'row')} {are} too few to split into train, val and "
                "test; give at least 10, or a split column"
            )
        parts |= _deal(manifest, range(len(rows)), _SHARES, seed)
    for name in ("train", "val"):
        if not parts[name]:
            hint = regression_hint(manifest.problem_type, [row.label for row in rows])
            raise ManifestError(
                f"{path}: no rows are left for {name}; give more rows{hint and f', or: {hint}'}"
            )
    _check_labels(manifest, parts)
    return {name: sorted(part) for name, part in parts.items() if part}


def label_names(manifest: Manifest, indices: Iterable[int]) -> tuple[str, ...]:
    """Return the labels of some rows, sorted as numbers if all are numbers, else as strings.

    A regression has none.
    """
    if manifest.problem_type == "regression":
        return ()
    return sort_names(
        name for index in indices for name in names_of(manifest.rows[index].label) if name
    )


def _deal(
    manifest: Manifest, indices: Iterable[int], shares: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Split rows into train and others by their shares, keeping linked rows together."""
    indices = list(indices)
    sets = linked(manifest.rows, indices)
    strata = _strata(manifest, indices)
    if len(sets) == len(indices):
        return _deal_rows(strata, shares, seed)
    if len(sets) < len(shares):
        shared = "a file" if "group" not in manifest.columns else "a file or a group"
        raise ManifestError(
            f"{manifest.path}: rows that share {shared} stay in one split, which leaves only "
            f"{plural(len(sets), 'set')} for {', '.join(shares)}; give a split column with train, "
            "val or test"
        )
    return _deal_sets(sets, strata, shares, seed)


def _strata(manifest: Manifest, indices: Iterable[int]) -> dict[int, str]:
    """Return the stratum of each row: row number -> stratum.

    The stratum is the label, the rarest of several labels, or the decile of a regression. All rows
    of steps have the same stratum.
    """
    indices = list(indices)
    labels = {index: manifest.rows[index].label for index in indices}
    if manifest.problem_type == "steps":
        return dict.fromkeys(indices, "")
    if manifest.problem_type == "regression":
        order = sorted(indices, key=lambda index: (float(str(labels[index])), index))
        return {index: str(place * _BINS // len(order)) for place, index in enumerate(order)}
    count = Counter(name for label in labels.values() for name in names_of(label))
    return {
        index: min(names_of(label), key=lambda name: (count[name], name), default="")
        for index, label in labels.items()
    }


def _deal_rows(
    strata: Mapping[int, str], shares: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Split independent rows: first train from the rest, then the rest into equal parts."""
    first, *others = shares
    parts = {}
    parts[first], rest = _in_two(strata, list(strata), round(1 - shares[first], 6), seed)
    if len(others) == 1:
        return parts | {others[0]: rest}
    second, third = others
    parts[third], parts[second] = _in_two(strata, rest, 0.5, seed + 1, keep_one=False)
    return parts


def _in_two(
    strata: Mapping[int, str],
    indices: Iterable[int],
    share: float,
    seed: int,
    keep_one: bool = True,
) -> tuple[list[int], list[int]]:
    """Split rows in two: the second part gets `share` of them (at least one, if there are any).

    Rows are shuffled within their stratum, and evenly spaced rows go to the second part. This keeps
    strata in proportion, and rare strata add up. `keep_one` keeps one row of each stratum in the
    first part.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index in indices:
        groups[strata[index]].append(index)
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


def _deal_sets(
    sets: list[list[int]], strata: Mapping[int, str], shares: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Assign sets of rows to splits, the largest first, each to the split that it fits best.

    The target of a split is its share of every stratum and of all rows. Each set goes where it
    increases the chi-square distance to the targets least. First, train gets a set of each stratum.
    """
    sets = list(sets)
    random.Random(seed).shuffle(sets)
    sets.sort(key=len, reverse=True)
    counts = [Counter(strata[index] for index in each) for each in sets]
    total = Counter(strata.values())
    have: dict[str, Counter[str]] = {part: Counter() for part in shares}
    part_of: dict[int, str] = {}

    def place(number: int, part: str) -> None:
        part_of[number] = part
        have[part] += counts[number]

    def harm(number: int, part: str) -> float:
        rows = sum(counts[number].values())
        held, share = sum(have[part].values()), shares[part]
        distance = _growth(held, rows, share * sum(total.values()))
        for name, count in counts[number].items():
            distance += _growth(have[part][name], count, share * total[name])
        return distance

    for name in sorted(total, key=lambda name: (total[name], name)):
        if not have["train"][name]:
            place(next(each for each, count in enumerate(counts) if count[name]), "train")
    for number in range(len(sets)):
        if number not in part_of:
            place(number, min(shares, key=lambda part: harm(number, part)))
    for part in shares:  # a part may have received nothing
        spare = [each for each, owner in part_of.items() if owner == "train"]
        if not have[part] and len(spare) > 1:
            able = [
                each
                for each in spare
                if all(have["train"][name] > count for name, count in counts[each].items())
            ]
            if able:
                least = min(able, key=lambda each: (len(sets[each]), each))
                have["train"] -= counts[least]
                place(least, part)
    return {
        part: [index for each, owner in part_of.items() if owner == part for index in sets[each]]
        for part in shares
    }


def _growth(held: int, more: int, wanted: float) -> float:
    """Return the increase of (held - wanted)² / wanted when `more` rows are added."""
    return ((held + more - wanted) ** 2 - (held - wanted) ** 2) / wanted


def _check_labels(manifest: Manifest, parts: Mapping[str, list[int]]) -> None:
    if manifest.problem_type == "regression":
        if len({float(str(manifest.rows[index].label)) for index in parts["train"]}) < 2:
            raise ManifestError(
                f"{manifest.path}: all training rows have the same label value; give at least two "
                "different values"
            )
        return
    if manifest.problem_type == "binary":
        _check_two(manifest)
    seen = set(label_names(manifest, parts["train"]))
    if len(seen) < (1 if manifest.problem_type == "multilabel" else 2):
        only = next(iter(seen), "none")
        raise ManifestError(
            f"{manifest.path}: the training rows have only one label ({only}); give at least two"
        )
    for name in ("val", "test"):
        for index in parts[name]:
            unseen = [label for label in label_names(manifest, [index]) if label not in seen]
            if unseen:
                hint = regression_hint(manifest.problem_type, [row.label for row in manifest.rows])
                raise ManifestError(
                    f"{manifest.path}, {manifest.rows[index].where}: the label {unseen[0]!r} is in "
                    f"{name} but never in train; add training rows that have it, or remove this row"
                    f"{hint and f'; {hint}'}"
                )


def _check_two(manifest: Manifest) -> None:
    names = label_names(manifest, range(len(manifest.rows)))
    if len(names) > 2:
        raise ManifestError(
            f"{manifest.path}: the problem type is binary, but there are {len(names)} labels "
            f"({', '.join(names[:4])}...); choose multiclass"
        )
