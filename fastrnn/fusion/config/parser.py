"""Dataclasses that check their fields against the declared types and ranges.

A field declares a type, with or without a constraint:

    @dataclass(frozen=True)
    class DataConfig(Checked):
        mels: Annotated[int, Range(1, 1024)] = 40

The same checks run on a caller's arguments and on untrusted JSON. Lists become tuples, and nested
objects become dataclasses, according to the types.
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

from .. import files
from ..errors import ConfigError
from .renamed import renamed

Kind = TypeVar("Kind")


class Constraint(Protocol):
    """A condition on a value of the right type."""

    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True)
class Range:
    """A number from `least` to `most` (inclusive) that is greater than `above`."""

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
    """One of the given values."""

    choices: tuple[Any, ...]

    def allows(self, value: Any) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.choices))}"


@dataclass(frozen=True)
class AtMost:
    """A tuple of at most `items` items."""

    items: int

    def allows(self, value: tuple[Any, ...]) -> bool:
        return len(value) <= self.items

    def __str__(self) -> str:
        return f"a list of at most {self.items} items"


@dataclass(frozen=True)
class Help:
    """The text that explains a field to users, who set it; not a constraint.

    Args:
        minimum: a higher minimum than the field's own, for the command line.
        auto: whether "auto" is a choice of users, and their default: the data decide.
    """

    text: str
    minimum: float | None = None
    auto: bool = False


class Checked:
    """Base class of frozen dataclasses that checks and converts every field in `__post_init__`."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            object.__setattr__(self, name, parse(hint, getattr(self, name), name))


def parse(hint: Any, value: Any, name: str) -> Any:
    """Convert `value` to the type `hint` and check it.

    Args:
        name: the name of the value in error messages.

    Raises:
        ConfigError: the value has another type, or is out of range.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        result = parse(arguments[0], value, name)
        for constraint in arguments[1:]:
            if not isinstance(constraint, Help) and not constraint.allows(result):
                raise ConfigError(f"{name} must be {constraint}; got {_short(value)}")
        return result
    if origin in (Union, types.UnionType):  # only unions with None are used
        return None if value is None else parse(arguments[0], value, name)
    if origin is tuple:
        return _tuple(arguments, value, name)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} must be a mapping; got {_short(value)}")
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
    """Read a dataclass from a JSON file.

    Raises:
        ConfigError: as `files.read_json` and `from_json`; the message names the file.
    """
    value = files.read_json(path)
    try:
        return from_json(kind, value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def from_json(kind: type[Kind], value: Any, name: str = "") -> Kind:
    """Create a dataclass from a mapping of its fields. Old names of fields are accepted.

    Raises:
        ConfigError: not a mapping, or a field is missing, unknown, of another type or out of range.
    """
    called = name or "the configuration"
    if not isinstance(value, Mapping):
        raise ConfigError(f"{called} must be a mapping; got {_short(value)}")
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    value = renamed(value, known)  # an earlier version may have saved it
    unknown = sorted(map(str, set(value) - set(known)))
    if unknown:
        raise ConfigError(f"{called} has fields unknown to this version: {', '.join(unknown)}")
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
        raise ConfigError(f"{name} must be a list; got {_short(value)}")
    if arguments[-1] is Ellipsis:
        arguments = arguments[:1] * len(value)
    if len(value) != len(arguments):
        raise ConfigError(f"{name} must have {len(arguments)} items; got {_short(value)}")
    pairs = zip(arguments, value, strict=True)
    return tuple(parse(hint, each, f"{name}[{at}]") for at, (hint, each) in enumerate(pairs))


_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def _plain(hint: type, value: Any, name: str) -> Any:
    if isinstance(value, Enum):
        value = value.value
    accepted = {int: Integral, float: Real}.get(hint, hint)
    # bool is an Integral, but True is not a valid number.
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{name} must be {_WORDS[hint]}; got {_short(value)}")
    try:
        return hint(value)
    except OverflowError:
        raise ConfigError(f"{name} must be {_WORDS[hint]}; got one that is too large") from None


def _short(value: Any) -> str:
    return reprlib.repr(value)  # an untrusted value may be long or deeply nested
