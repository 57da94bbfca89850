"""The options that were renamed. Their old names are accepted for one release, with a warning."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any, ParamSpec, TypeVar

from ..errors import ConfigError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

RENAMED = {  # old name -> new name
    "accumulate": "gradient_accumulation_steps",
    "batch": "batch_size",
    "clip": "max_grad_norm",
    "folder": "output_dir",
    "kind": "problem_type",
    "out": "output_dir",
    "rate": "learning_rate",
    "workers": "num_workers",
}


class RenamedOptionWarning(FutureWarning):
    """An option was given by its old name."""


def warn(old: str, new: str) -> None:
    """Warn that the name `old` is now `new`."""
    warnings.warn(
        f"{old} is now {new}; the next release will not accept the old name",
        RenamedOptionWarning,
        stacklevel=3,
    )


def renamed(
    options: Mapping[str, Any], known: Container[str] = frozenset(RENAMED.values())
) -> dict[str, Any]:
    """Return options under their new names, and warn about each old one.

    Args:
        options: name -> value.
        known: the names in use. An old name is replaced only if it is not one of them and its new
            name is.

    Raises:
        ConfigError: an option is given by both its old and its new name.
    """
    result = {name: value for name, value in options.items() if not _is_old(name, known)}
    for old in options:
        if _is_old(old, known):
            new = RENAMED[old]
            if new in result:
                raise ConfigError(f"{old} is the old name of {new}, which is given too; remove it")
            warn(old, new)
            result[new] = options[old]
    return result


def accept_old_names(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a function accept the old names of its keyword arguments, with a warning.

    A function that takes **options accepts every renamed option.
    """
    parameters = inspect.signature(function).parameters
    known = set(parameters)
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        known |= set(RENAMED.values())

    @functools.wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        return function(*arguments, **renamed(options, known))

    return call


def _is_old(name: str, known: Container[str]) -> bool:
    return name not in known and RENAMED.get(name) in known
