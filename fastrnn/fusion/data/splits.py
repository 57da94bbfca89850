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
from pathlib import Path
from typing import Annotated

from .. import files
from ..config.parser import Range, parse
from ..errors import ConfigError, ManifestError
from ..strings import plural
from ..tasks.labels import names_of, regression_hint
from .groups import linked
from .manifest import Manifest

SPLITS = ("train", "val", "test")
SPLIT = "split.json"  # in the folder of a run: the row numbers of each split

_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
_VAL_OF_TRAIN = {"train": 0.9, "val": 0.1}


def split_rows(manifest: Manifest, seed: int = 0) -> dict[str, list[int]]:
    """Split the rows: split name -> sorted row numbers. `test` may be absent.

    Raises:
        ManifestError: too few rows, or too few independent sets of rows; only one label in train;
            or a label that only val or test has.
    """
    path = manifest.path
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    if "split" in manifest.columns:
        for index, name in enumerate(manifest.table["split"].to_pylist()):
            parts[name].append(index)
        if not parts["val"] and len(parts["train"]) >= 2:
            parts |= _deal(manifest, parts["train"], _VAL_OF_TRAIN, seed)
    else:
        count = len(manifest)
        if count < 10:
            are = "is" if count == 1 else "are"
            raise ManifestError(
                f"{path}: {plural(count, 'row')} {are} too few to split into train, val and test; "
                "give at least 10, or a split column"
            )
        parts |= _deal(manifest, range(count), _SHARES, seed)
    return _checked(manifest, parts)


def fold_rows(manifest: Manifest, folds: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Split the rows for cross-validation: for each fold, split name -> sorted row numbers.

    Each row is in test once. A tenth of a fold's other rows is val. The test rows of a split column
    are in no fold.

    Raises:
        ManifestError: there are fewer independent sets of rows than folds, or as for `split_rows`.
    """
    rows = list(range(len(manifest)))
    if "split" in manifest.columns:
        splits = manifest.table["split"].to_pylist()
        rows = [row for row in rows if splits[row] != "test"]
    sets = linked(manifest.rows, rows)
    if len(sets) < folds:
        raise ManifestError(
            f"{manifest.path}: {plural(len(sets), 'independent set')} of rows cannot be split into "
            f"{folds} folds; make folds smaller, or give more rows"
        )
    strata = dict(zip(rows, manifest.task.strata(manifest.labels(rows)), strict=True))
    shares = {str(fold): 1 / folds for fold in range(folds)}
    dealt = _deal_sets(sets, strata, shares, seed, seeded=False)
    found = []
    for test in dealt.values():
        others = sorted(set(rows).difference(test))
        parts = {**_deal(manifest, others, _VAL_OF_TRAIN, seed), "test": test}
        found.append(_checked(manifest, parts))
    return found


def _checked(manifest: Manifest, parts: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Check that train and val have rows, and the labels of all; return the sorted parts."""
    for name in ("train", "val"):
        if not parts[name]:
            hint = regression_hint(manifest.problem_type, manifest.labels())
            raise ManifestError(
                f"{manifest.path}: no rows are left for {name}; give more rows"
                f"{hint and f', or: {hint}'}"
            )
    _check_labels(manifest, parts)
    return {name: sorted(part) for name, part in parts.items() if part}


def read_split(path: Path) -> dict[str, list[int]]:
    """Read the row numbers of each split of a run's table.

    Raises:
        ConfigError: the file is damaged.
    """
    value = files.read_json(path)
    try:
        return parse(dict[str, list[Annotated[int, Range(0)]]], value, "the split")
    except ConfigError as error:
        raise ConfigError(f"{path}: damaged: {error}; restore it") from None


def _deal(
    manifest: Manifest, indices: Iterable[int], shares: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Split rows into train and others by their shares, keeping linked rows together."""
    indices = list(indices)
    sets = linked(manifest.rows, indices)
    strata = dict(zip(indices, manifest.task.strata(manifest.labels(indices)), strict=True))
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
    sets: list[list[int]],
    strata: Mapping[int, str],
    shares: Mapping[str, float],
    seed: int,
    seeded: bool = True,
) -> dict[str, list[int]]:
    """Assign sets of rows to splits, the largest first, each to the split that it fits best.

    The target of a split is its share of every stratum and of all rows. Each set goes where it
    increases the chi-square distance to the targets least. If `seeded`, the first split, train,
    gets a set of each stratum at the start.
    """
    first, sets = next(iter(shares)), list(sets)
    random.Random(seed).shuffle(sets)
    sets.sort(key=len, reverse=True)
    counts = [Counter(strata[index] for index in each) for each in sets]
    total = Counter(strata.values())
    have: dict[str, Counter[str]] = {part: Counter() for part in shares}
    held = dict.fromkeys(shares, 0)  # rows
    part_of: dict[int, str] = {}

    def place(number: int, part: str) -> None:
        part_of[number] = part
        have[part].update(counts[number])
        held[part] += len(sets[number])

    def harm(number: int, part: str) -> float:
        share = shares[part]
        distance = _growth(held[part], len(sets[number]), share * len(strata))
        for name, count in counts[number].items():
            distance += _growth(have[part][name], count, share * total[name])
        return distance

    # The first set, the largest, of each stratum
    largest = {name: number for number in reversed(range(len(sets))) for name in counts[number]}
    for name in sorted(total, key=lambda name: (total[name], name)) if seeded else ():
        if not have[first][name]:
            place(largest[name], first)
    for number in range(len(sets)):
        if number not in part_of:
            place(number, min(shares, key=lambda part: harm(number, part)))
    for part in shares:  # a part may have received nothing
        spare = [each for each, owner in part_of.items() if owner == first]
        if not held[part] and len(spare) > 1:
            able = [e for e in spare if all(have[first][n] > c for n, c in counts[e].items())]
            if able:
                least = min(able, key=lambda each: (len(sets[each]), each))
                have[first].subtract(counts[least])
                held[first] -= len(sets[least])
                place(least, part)
    return {
        part: [index for each, owner in part_of.items() if owner == part for index in sets[each]]
        for part in shares
    }


def _growth(held: int, more: int, wanted: float) -> float:
    """Return the increase of (held - wanted)² / wanted when `more` rows are added."""
    return ((held + more - wanted) ** 2 - (held - wanted) ** 2) / wanted


def _check_labels(manifest: Manifest, parts: Mapping[str, list[int]]) -> None:
    """Check that the task can be learned from train, and that val and test have no other labels."""
    try:
        task = manifest.task.fit(manifest.labels(parts["train"]))
    except ManifestError as error:
        raise ManifestError(f"{manifest.path}: {error}") from None
    for name in ("val", "test"):
        for index, label in zip(parts[name], manifest.labels(parts[name]), strict=True):
            try:
                task.indices(label)
            except ManifestError:
                unseen = next(each for each in names_of(label) if each not in task.labels)
                hint = regression_hint(manifest.problem_type, manifest.labels())
                raise ManifestError(
                    f"{manifest.path}, {manifest.where(index)}: the label {unseen!r} is in {name} "
                    "but never in train; add training rows that have it, or remove this row"
                    f"{hint and f'; {hint}'}"
                ) from None
