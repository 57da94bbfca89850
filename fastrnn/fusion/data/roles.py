"""Decide which columns of a table are inputs, the label, the split and the group.

The caller names columns; the others are found by name or by the extension of their files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Any

from ..config.inputs import MODALITIES, Columns, input_names, listed, modality_of
from ..errors import ConfigError, ManifestError
from .readers import Record, Table

NAMES = {
    "image": ("image", "images", "img", "image_path", "photo", "picture", "frame", "frames"),
    "audio": ("audio", "audio_path", "sound", "clip", "wav", "speech"),
    "text": ("text", "caption", "sentence", "transcript", "claim", "question"),
    "series": ("series", "time_series", "timeseries", "signal", "sensor", "sensors"),
    "label": ("label", "labels", "target", "class", "answer", "y"),
    "split": ("split", "subset", "fold"),
    "group": ("group", "group_id"),
}
LABELLED = ("label", "split", "group")  # roles that prediction does not need
_ENDINGS = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "series": (".npy",),
}
_SAMPLE = 100  # rows that are inspected to find out what a column holds


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
) -> dict[str, str]:
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
    free = [name for name in table.names if name not in {*found.values(), *listed(ignore)}]
    sample = _sample(table.records())
    there = {modality_of(name) for name in found}
    for role in NAMES:
        if role in there or role not in infer:
            continue
        matches = [name for name in free if name.lower() in NAMES[role]]
        if not matches and role in _ENDINGS:
            matches = [name for name in free if _ends(sample.get(name), _ENDINGS[role])]
        if role in LABELLED and len(matches) > 1:
            raise ManifestError(
                f"{table.path}: the columns {', '.join(matches)} could each be the {role}; "
                f"choose one with --{role} NAME"
            )
        found |= input_names(role, matches) if matches else {}
    if "label" in infer and "label" not in found:
        raise ManifestError(
            f"{table.path}: no label column was found (the columns are {', '.join(table.names)}); "
            "choose one with --label NAME"
        )
    if not any(modality_of(name) in MODALITIES for name in found):
        raise ManifestError(
            f"{table.path}: no column of images, audio files, texts or series was found (the "
            f"columns are {', '.join(table.names)}); choose one with --image, --audio, --text or "
            "--series NAME"
        )
    return found


def _named(table: Table, named: Columns) -> dict[str, str]:
    """Return the columns that the caller names, by input or role."""
    chosen: dict[str, str] = {}
    asked: list[tuple[str, str]] = []  # role, column
    for role, value in named.items():
        columns = listed(value, table.names)
        asked += [(role, column) for column in columns]
        if len(columns) > 1 and role not in MODALITIES:
            raise ManifestError(
                f"{table.path}: {role} is one column; got {', '.join(columns)}; name one"
            )
        for column in columns:
            if column not in table.names:
                raise ManifestError(
                    f"{table.path}: there is no column {column!r}; the columns are "
                    f"{', '.join(table.names)}"
                )
        chosen |= input_names(role, columns) if role in MODALITIES else {role: columns[0]}
    for column, count in Counter(column for _, column in asked).items():
        if count > 1:
            roles = dict.fromkeys(role for role, name in asked if name == column)
            both = f"both {' and '.join(roles)}" if len(roles) > 1 else f"{next(iter(roles))} twice"
            raise ManifestError(
                f"{table.path}: the column {column!r} is named for {both}; name a column for each"
            )
    return chosen


def _sample(records: Iterable[tuple[str, Record | ManifestError]]) -> dict[str, Any]:
    """Return the first filled cell of each column."""
    sample: dict[str, Any] = {}
    for _, record in islice(records, _SAMPLE):
        if isinstance(record, dict):
            for name, cell in record.items():
                if isinstance(cell, (str, list)) and cell:
                    sample.setdefault(name, cell)
    return sample


def _ends(value: Any, endings: tuple[str, ...]) -> bool:
    text = value[0] if isinstance(value, list) and value else value
    return isinstance(text, str) and text.strip().rstrip('"]').lower().endswith(endings)
