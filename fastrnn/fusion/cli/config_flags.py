"""Flags from tables: one for each option of the configuration, and one for each column role."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Annotated, Any, TypeVar

import typer

from ..config.inputs import MODALITIES
from ..config.options import OPTIONS, Option
from ..config.schema import DataConfig, LoaderConfig, ModelConfig, TrainConfig

Command = TypeVar("Command", bound=Callable[..., None])

COLUMNS = {
    "image": "Column of image paths; may be repeated.",
    "audio": "Column of audio paths; may be repeated.",
    "text": "Column of texts; may be repeated.",
    "series": "Column of numeric series: JSON lists, or paths of .csv or .npy files; may be "
    "repeated.",
    "tabular": "Column of numbers, categories or dates; may be repeated. The others are ignored.",
    "label": "Column of labels.",
    "split": "Column of splits: train, val or test.",
    "group": "Column of groups; rows of one group stay in the same split.",
}
_PANELS = {
    DataConfig: "Data",
    ModelConfig: "Model",
    TrainConfig: "Training",
    LoaderConfig: "Reading files",
}


def with_columns(command: Command) -> Command:
    """Add a flag for each column role to a typer command that takes **options."""
    return _append(command, (_column(role, help) for role, help in COLUMNS.items()))


def with_config(command: Command) -> Command:
    """Add a flag for each option of the configuration to a typer command that takes **options."""
    return _append(command, map(_parameter, OPTIONS.values()))


def named_columns(values: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Return the columns named on the command line, by role."""
    return {role: values[role] for role in COLUMNS if values.get(role)}


def _append(command: Command, flags: Iterable[inspect.Parameter]) -> Command:
    # Typer creates its flags from the signature.
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore
    return command


def _column(role: str, help: str) -> inspect.Parameter:
    flag = typer.Option(metavar="NAME", help=help, rich_help_panel="Columns")
    kind = list[str] if role in MODALITIES else str
    return _keyword(role, kind | None, None, flag)


def _parameter(option: Option) -> inspect.Parameter:
    kind, default = option.type, option.default
    if option.choices:
        make: Any = Enum  # type checkers cannot know its members
        members = {each.replace("-", "_"): each for each in option.choices}
        kind = make(option.name, members, type=str)
        default = kind(default)
    elif option.is_list:
        kind, default = str, ",".join(str(each) for each in default)
    flag = typer.Option(
        min=option.minimum,
        max=option.maximum,
        help=option.help,
        rich_help_panel=_PANELS[option.config],
    )
    return _keyword(option.name, kind, default, flag)


def _keyword(name: str, kind: Any, default: Any, flag: Any) -> inspect.Parameter:
    only = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, only, default=default, annotation=Annotated[kind, flag])
