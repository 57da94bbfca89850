"""Dataclasses whose fields are checked against their declared types and ranges.

A field says what it holds with its type alone, or with a constraint:

    @dataclass(frozen=True)
    class DataConfig(Checked):
        mels: Annotated[int, Range(1, 1024)] = 40

The same check runs on a caller's arguments and on JSON that anyone may have written. Lists become
tuples and nested objects become dataclasses, as the types say.
"""

from __future__ import annotations

import math
import reprlib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from . import files
from .errors import ConfigError

Kind = TypeVar("Kind")


class Constraint(Protocol):
    """What a value of the right type must also satisfy."""

    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True)
class Range:
    """A number from `least` to `most`, and greater than `above`."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def allows(self, value: float) -> bool:
        return self.least <= value <= self.most and value > self.above  # NaN is in no range

    def __str__(self) -> str:
        bounds = (
            ("greater than", self.above, -math.inf),
            ("at least", self.least, -math.inf),
            ("at most", self.most, math.inf),
        )
        return " and ".join(f"{words} {bound:,}" for words, bound, none in bounds if bound != none)


@dataclass(frozen=True)
class OneOf:
    """One of some values."""

    choices: tuple[Any, ...]

    def allows(self, value: Any) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.choices))}"


@dataclass(frozen=True)
class AtMost:
    """A tuple of so many items."""

    items: int

    def allows(self, value: tuple[Any, ...]) -> bool:
        return len(value) <= self.items

    def __str__(self) -> str:
        return f"a list of at most {self.items} items"


class Checked:
    """A base of frozen dataclasses: `__post_init__` checks and converts every field."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            object.__setattr__(self, name, parse(hint, getattr(self, name), name))


def parse(hint: Any, value: Any, name: str) -> Any:
    """`value` as the type `hint`.

    Args:
        name: what messages call the value.

    Raises:
        ConfigError: it has another type, or is out of its range.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        result = parse(arguments[0], value, name)
        for constraint in arguments[1:]:
            if not constraint.allows(result):
                raise ConfigError(f"{name} is {constraint}; got {_short(value)}")
        return result
    if origin in (Union, types.UnionType):  # only with None
        return None if value is None else parse(arguments[0], value, name)
    if origin is tuple:
        return _tuple(arguments, value, name)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is a mapping; got {_short(value)}")
        key, item = arguments
        return {
            parse(key, each, f"a key of {name}"): parse(item, value[each], f"{name}.{each}")
            for each in value
        }
    if origin is list:
        return list(_tuple((*arguments, ...), value, name))
    if hint is Any:
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        return value if isinstance(value, hint) else from_json(hint, value, name)
    return _plain(hint, value, name)


def read(kind: type[Kind], path: Path) -> Kind:
    """A dataclass from a JSON file.

    Raises:
        ConfigError: as `files.read_json` and `from_json`; it names the file.
    """
    value = files.read_json(path)
    try:
        return from_json(kind, value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def from_json(kind: type[Kind], value: Any, name: str = "") -> Kind:
    """A dataclass from a mapping of its fields.

    Raises:
        ConfigError: no mapping; a field is missing, unknown, of another type or out of its range.
    """
    called = name or "the configuration"
    if not isinstance(value, Mapping):
        raise ConfigError(f"{called} is a mapping; got {_short(value)}")
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(map(str, set(value) - set(known)))
    if unknown:
        raise ConfigError(f"{called} has fields this version does not know: {', '.join(unknown)}")
    missing = [
        each.name
        for each in known.values()
        if each.name not in value and each.default is MISSING and each.default_factory is MISSING
    ]
    if missing:
        raise ConfigError(f"{called} lacks {', '.join(missing)}")
    hints = get_type_hints(kind, include_extras=True)
    prefix = f"{name}." if name else ""
    return kind(**{each: parse(hints[each], value[each], prefix + each) for each in value})


def _tuple(arguments: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name} is a list; got {_short(value)}")
    if arguments[-1] is Ellipsis:
        arguments = arguments[:1] * len(value)
    if len(value) != len(arguments):
        raise ConfigError(f"{name} has {len(arguments)} items; got {_short(value)}")
    pairs = zip(arguments, value, strict=True)
    return tuple(parse(hint, each, f"{name}[{at}]") for at, (hint, each) in enumerate(pairs))


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _plain(hint: type, value: Any, name: str) -> Any:
    if isinstance(value, Enum):
        value = value.value
    accepted = {int: Integral, float: Real}.get(hint, hint)
    # True is an Integral, but as a number it is a mistake.
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{name} is {_WORDS[hint]}; got {_short(value)}")
    try:
        return hint(value)
    except OverflowError:
        raise ConfigError(f"{name} is {_WORDS[hint]}; got one that is too large") from None


def _short(value: Any) -> str:
    return reprlib.repr(value)  # a stranger's value may be long or deep
