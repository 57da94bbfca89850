"""Options in a YAML file, one per line. The config.yaml of a run is such a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from .. import files
from ..errors import ConfigError
from .inputs import MODALITIES
from .options import OPTIONS, as_tuple, check_names
from .renamed import renamed
from .training import BALANCED

_REPEATED = (*MODALITIES, "ignore", "report_to")  # flags that may be given several times


def read(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Read options from a YAML file: name -> the text of the flag, or a list of texts.

    Names may use "-" or "_".

    Raises:
        ConfigError: the file cannot be read, is not a mapping, or has an unknown key.

    Warns:
        RenamedOptionWarning: a key is the old name of an option.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a YAML file") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(
            f"{path}: not YAML ({error}); write one option per line, such as `epochs: 20`"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a mapping; write one option per line, such as `epochs: 20`")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    try:
        values = renamed(values, known)
        check_names(values, known)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return as_flags({name: value for name, value in values.items() if value is not None})


def as_flags(values: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Convert values to the text of flags, so that they are checked alike: epochs 2.5 fails."""
    return {
        name: _texts(value) if name in _REPEATED else _text(value) for name, value in values.items()
    }


def _texts(value: Any) -> list[str]:
    return [str(each) for each in (value if isinstance(value, (list, tuple)) else [value])]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [f"{key}={each}" for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return ",".join(_pair(each) for each in value)
    return str(value)


def _pair(value: Any) -> str:
    return "=".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def write(path: Path, options: Mapping[str, Any]) -> None:
    """Write options in the format of `read`. Options that are None are omitted."""
    values = {name: _plain(name, value) for name, value in options.items() if value is not None}
    content = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    files.write(
        path, "# Options of this run; reuse them with: fastrnn fit --config FILE\n" + content
    )


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if name not in OPTIONS or not OPTIONS[name].is_list or value == BALANCED:
        return value
    items = as_tuple(name, value)
    return dict(items) if items and isinstance(items[0], tuple) else list(items)
