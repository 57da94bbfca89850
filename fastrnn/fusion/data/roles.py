"""Decide which columns of a table are inputs, the label, the split and the group.

The caller names columns. The others are found by name, by the extension of their files, or by
content (profile.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Number
from typing import Any

from ..config.inputs import MODALITIES, Columns, input_names, listed, modality_of, of_modality
from ..errors import ConfigError, ManifestError
from .profile import judge, label_of, names_hold_label, profiles, suspicious
from .readers import Table
from .records import Record, stripped
from .tabular import number
from .timeseries import ENDINGS

NAMES = {
    "image": ("image", "images", "img", "image_path", "photo", "picture", "frame", "frames"),
    "audio": ("audio", "audio_path", "sound", "clip", "wav", "speech"),
    "text": ("text", "caption", "sentence", "transcript", "claim", "question"),
    "series": ("series", "time_series", "timeseries", "signal", "sensor", "sensors"),
    "tabular": (),  # by content
    "label": ("label", "labels", "target", "class", "answer", "y"),
    "split": ("split", "subset", "fold"),
    "group": ("group", "group_id"),
}
LABELLED = ("label", "split", "group")  # roles that prediction does not need
_ENDINGS = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "series": ENDINGS,
}
_SAMPLE = 100  # rows that are inspected to find out what a column holds


@dataclass(frozen=True)
class Roles:
    """The role of each column, and why.

    Attributes:
        columns: input or role -> column.
        reasons: column -> the reason for its role, or for none.
        warnings: one line each.
    """

    columns: dict[str, str]
    reasons: dict[str, str]
    warnings: tuple[str, ...] = ()


def check_roles(named: Iterable[str]) -> None:
    """Check that every name is a role, or an input such as image:front.

    Raises:
        ConfigError: a role is unknown.
    """
    for name in sorted(named):
        if name not in NAMES and modality_of(name) not in MODALITIES:
            raise ConfigError(f"unknown role {name!r}; the roles are {', '.join(NAMES)}")


def find_roles(
    table: Table,
    named: Columns,
    infer: Collection[str] = tuple(NAMES),
    ignore: str | Sequence[str] = (),
) -> Roles:
    """Map inputs and roles to columns: as named by the caller, else as inferred.

    Args:
        named: role or input -> a column; for a modality, any number of columns.
        infer: the roles to infer if they are not named.
        ignore: columns that have no role unless they are named.

    Raises:
        ManifestError: a column does not exist or is named twice, the columns are ambiguous, or
            there is no input.
    """
    found = _named(table, named)
    reasons = dict.fromkeys(found.values(), "named")
    left_out = [n for n in listed(ignore, table.names) if n not in reasons] if ignore else []
    _check_there(table, filter(None, left_out))
    wanted = [role for role in NAMES if role in infer and role not in map(modality_of, found)]
    unread = dict.fromkeys(table.unread - reasons.keys(), "its type is not read")
    taken = {*reasons, *left_out, *unread}
    free = [name for name in table.names if name not in taken]
    found |= _by_name(table, wanted, free, reasons)
    warnings: tuple[str, ...] = ()
    if {"tabular", "text"} & set(infer):
        found, warnings = _by_content(table, wanted, free, found, reasons)
    reasons |= unread | dict.fromkeys(left_out, "named by --ignore")
    if "label" in infer and "label" not in found:
        raise ManifestError(
            f"{table.path}: no label column was found (the columns are {', '.join(table.names)}); "
            "choose one with --label NAME"
        )
    if not any(modality_of(name) in MODALITIES for name in found):
        raise ManifestError(
            f"{table.path}: no column of images, audio files, texts, series, numbers or categories "
            f"was found (the columns are {', '.join(table.names)}); choose one with --image, "
            "--audio, --text, --series or --tabular NAME"
        )
    reasons = {name: reasons[name] for name in table.names if name in reasons}
    return Roles(found, reasons, warnings)


def _by_name(
    table: Table, wanted: Iterable[str], free: Sequence[str], reasons: dict[str, str]
) -> dict[str, str]:
    """Find columns by name, else by the extension of their files; add the reasons."""
    sample = _sample(table.records())
    by_name = {role: [name for name in free if name.lower() in NAMES[role]] for role in wanted}
    for role, matches in by_name.items():
        unfit = [each for each in matches if not _fits(role, sample[each])]
        by_name[role] = [each for each in matches if each not in unfit]
        reasons |= dict.fromkeys(by_name[role], "by its name")
        if role == "split":  # else by content
            reason = "not train, val or test; name it with --split to use it"
            reasons |= dict.fromkeys(unfit, reason)
    found: dict[str, str] = {}
    for role, matches in by_name.items():
        if not matches and role in _ENDINGS:
            for name in free:
                ending = _ending(next(iter(sample[name]), None), _ENDINGS[role])
                if ending and name not in reasons:
                    matches.append(name)
                    reasons[name] = f"file extension {ending}"
        if role in LABELLED and len(matches) > 1:
            raise ManifestError(
                f"{table.path}: the columns {', '.join(matches)} could each be the {role}; "
                f"choose one with --{role} NAME"
            )
        found |= input_names(role, matches) if matches else {}
    return found


def _by_content(
    table: Table,
    wanted: Collection[str],
    free: Sequence[str],
    found: dict[str, str],
    reasons: dict[str, str],
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Find tabular columns and the only text by content; return all columns, and warnings."""
    known = profiles(table)
    label = label_of(known, found.get("label"))
    warnings = []
    for name, column in found.items():
        profile, modality = known[column], modality_of(name)
        if modality in _ENDINGS and names_hold_label(profile, label):
            reasons[column] += "; file names hold the label, but are not read"
        if modality == "tabular":
            reasons[column] += f"; {profile.summary}"
        if modality in ("tabular", "text") and not profile.other:
            suspicion = suspicious(column, profile, label)
            if suspicion and (modality == "tabular" or "label" in suspicion):
                warnings.append(f"{column}: {suspicion}; leave it out with --ignore")
    texts: list[str] = []
    tabular: list[str] = []
    for column in free:
        if column in reasons:
            continue
        filled = known[column].filled[:1]
        for role, endings in _ENDINGS.items():
            if filled and (ending := _ending(filled[0], endings)):
                reasons[column] = f"files {ending}; name it with --{role} to use it"
        if column not in reasons:
            role, reasons[column] = judge(column, known[column], label)
            {"text": texts, "tabular": tabular}.get(role, []).append(column)
    if "text" in wanted and not of_modality(found, "text") and len(texts) == 1:
        found = found | {"text": texts.pop()}
    if "tabular" in wanted:
        found = found | input_names("tabular", tabular)
        tabular = []
    for role, columns in (("text", texts), ("tabular", tabular)):
        for column in columns:  # could be inputs, but are not
            reasons[column] += f"; name it with --{role} to use it"
    return found, tuple(warnings)


def _named(table: Table, named: Columns) -> dict[str, str]:
    """Return the columns that the caller names, by input or role."""
    chosen: dict[str, str] = {}
    asked: list[tuple[str, str]] = []  # role, column
    names = set(table.names)
    for role, value in named.items():
        columns = listed(value, names)
        asked += [(role, column) for column in columns]
        if len(columns) > 1 and role not in MODALITIES:
            raise ManifestError(
                f"{table.path}: {role} is one column; got {', '.join(columns)}; name one"
            )
        chosen |= input_names(role, columns) if role in MODALITIES else {role: columns[0]}
    _check_there(table, [column for _, column in asked])
    for column, count in Counter(column for _, column in asked).items():
        if count > 1:
            roles = dict.fromkeys(role for role, name in asked if name == column)
            both = f"both {' and '.join(roles)}" if len(roles) > 1 else f"{next(iter(roles))} twice"
            raise ManifestError(
                f"{table.path}: the column {column!r} is named for {both}; name a column for each"
            )
    return chosen


def _check_there(table: Table, columns: Iterable[str]) -> None:
    names = set(table.names)
    for column in columns:
        if column not in names:
            raise ManifestError(
                f"{table.path}: there is no column {column!r}; the columns are "
                f"{', '.join(table.names)}"
            )


def _sample(records: Iterable[tuple[str, Record | ManifestError]]) -> dict[str, list[Any]]:
    """Return the filled cells of each column in the first rows."""
    sample: dict[str, list[Any]] = defaultdict(list)
    for _, record in islice(records, _SAMPLE):
        if isinstance(record, dict):
            for name, value in record.items():
                cell = stripped(value)
                if cell is not None and cell != []:
                    sample[name].append(cell)
    return sample


def _fits(role: str, cells: Sequence[Any]) -> bool:
    """Whether the first cells of a column can have the role that its name says.

    Numbers are no files, texts, series or names of splits. A text may consist of digits.
    """
    if role in ("label", "group") or not cells:
        return True
    digits = role != "text"
    return not all(
        isinstance(cell, Number) or (digits and isinstance(cell, str) and number(cell) is not None)
        for cell in cells
    )


def _ending(value: Any, endings: tuple[str, ...]) -> str:
    """Return the extension of a file name, or of the first in a list, if it is one of these."""
    text = value[0] if isinstance(value, list) and value else value
    name = text.strip().rstrip('"]').lower() if isinstance(text, str) else ""
    return next((each for each in endings if name.endswith(each)), "")
