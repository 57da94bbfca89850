"""The options of a fit. Flags, YAML keys and keyword arguments use the same names.

An option is a field with a Help of DataConfig, ModelConfig, TrainConfig or LoaderConfig. The other
fields follow from the data (modalities, labels, the size of the vocabulary) and are not options.
"""

from __future__ import annotations

import difflib
import math
import operator
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import ConfigError
from .parser import Help, OneOf, Range, parse
from .presets import PRESETS
from .renamed import renamed
from .schema import DataConfig, FitConfig, LoaderConfig, ModelConfig
from .training import BALANCED, TrainConfig

AUTO = "auto"


@dataclass(frozen=True)
class Option:
    """A field that users set."""

    name: str
    config: type  # the dataclass of the field
    hint: Any  # its type and constraints, as `parser.parse` takes them
    type: Any  # its type
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def is_list(self) -> bool:
        """Whether the value is a tuple; on the command line and in YAML also a text: 32,64."""
        return get_origin(self.type) is tuple


def _options(config: type) -> Iterator[Option]:
    """Yield the options of a configuration: the fields with a Help."""
    hints, types = get_type_hints(config, include_extras=True), get_type_hints(config)
    for each in fields(config):
        notes = getattr(hints[each.name], "__metadata__", ())
        for help in (note for note in notes if isinstance(note, Help)):
            minimum, maximum = _bounds(notes)
            choices = _choices(notes) if types[each.name] is str else ()
            yield Option(
                name=each.name,
                config=config,
                hint=hints[each.name],
                type=types[each.name],
                default=AUTO if help.auto else each.default,
                help=help.text,
                minimum=minimum if help.minimum is None else help.minimum,
                maximum=maximum,
                choices=(AUTO, *choices) if help.auto else choices,
            )


def _choices(constraints: Iterable[Any]) -> tuple[str, ...]:
    return next((each.choices for each in constraints if isinstance(each, OneOf)), ())


def _bounds(constraints: Iterable[Any]) -> tuple[float | None, float | None]:
    """Return the bounds of a number, for its help. The field's own check is exact."""
    for each in constraints:
        if isinstance(each, Range):
            bounds = max(each.least, each.above), each.most
            least, most = (None if math.isinf(bound) else bound for bound in bounds)
            return least, most
    return None, None


CONFIGS = (DataConfig, ModelConfig, TrainConfig, LoaderConfig)
OPTIONS = {each.name: each for config in CONFIGS for each in _options(config)}


def fit_config(options: Mapping[str, Any], **others: Any) -> FitConfig:
    """Sort options into the sections of a FitConfig.

    Args:
        options: values by name, of any of CONFIGS.
        others: the other fields of FitConfig: baselines, init_from, report_to, folds.

    Raises:
        ConfigError: an unknown option (the message suggests the closest), or an invalid value.

    Warns:
        RenamedOptionWarning: an option has its old name.
    """
    options = renamed(options, OPTIONS)
    check_names(options, OPTIONS)
    values: dict[type, dict[str, Any]] = {config: {} for config in CONFIGS}
    for name, value in options.items():
        option = OPTIONS[name]
        if AUTO in option.choices and value == AUTO:
            continue
        # TrainConfig accepts this word in place of a list.
        listed = option.is_list and not (isinstance(value, str) and value == BALANCED)
        values[option.config][name] = as_tuple(name, value) if listed else value
    # The other fields of ModelConfig are not known yet.
    model = {
        name: parse(OPTIONS[name].hint, value, name) for name, value in values[ModelConfig].items()
    }
    return FitConfig(
        DataConfig(**values[DataConfig]),
        model,
        TrainConfig(**values[TrainConfig]),
        LoaderConfig(**values[LoaderConfig]),
        **others,
    )


def preset(name: str) -> dict[str, Any]:
    """Return a preset's options by name.

    Raises:
        ConfigError: the preset is unknown.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    chosen = PRESETS[name]
    return {**chosen.data, **chosen.model, **chosen.train}


def as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """Parse the value of a list option, from "32,64", a sequence, or a mapping.

    Raises:
        ConfigError: it is neither, or an item has the wrong type.
    """
    item = get_args(OPTIONS[name].type)[0]
    parts = value.split(",") if isinstance(value, str) else value
    if isinstance(value, Mapping):
        parts = value.items()
    try:
        texts = [each.strip() if isinstance(each, str) else each for each in parts]
        texts = [each for each in texts if each != ""]
        if item is str:
            return tuple(str(each) for each in texts)
        if item is not int:
            # A label may contain "=", and so may a folder.
            split = str.rsplit if name == "class_weight" else str.split
            pairs = [split(each, "=", 1) if isinstance(each, str) else each for each in texts]
            kind = get_args(item)[1]
            return tuple((str(key), kind(value)) for key, value in pairs)
        return tuple(int(each) if isinstance(each, str) else operator.index(each) for each in texts)
    except (TypeError, ValueError):
        examples = {
            "class_weight": "yes=3,no=1",
            "encoders": "image=NAME",
            "finetune": "image=last-2",
            "freeze": "text,fusion",
            "share": "image,text",
            "strides": "2,2",
        }
        example = examples.get(name, "32,64")
        raise ConfigError(
            f"{name} must be a list such as {example}; got {reprlib.repr(value)}"
        ) from None


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Check that all names are known options.

    Raises:
        ConfigError: a name is unknown; the message suggests the closest known one.
    """
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1, 0.5)
            remedy = f"did you mean {near[0]}?" if near else f"the options are {', '.join(known)}"
            raise ConfigError(f"{name!r} is not an option; {remedy}")
