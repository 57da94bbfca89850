"""The options of a fit, by name: the same as flags, as keys of a YAML file, and as keywords.

Each is a field of DataConfig, ModelConfig or TrainConfig; its default stands there and its help
here. What the data decide (modalities, labels, the vocabulary's size) is no option.
"""

from __future__ import annotations

import difflib
import inspect
import math
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
import yaml

from . import files
from .config import CELLS, FUSIONS, PRECISIONS, SCHEDULES, DataConfig, ModelConfig, TrainConfig
from .errors import ConfigError
from .presets import PRESETS
from .schema import Range, parse

Command = TypeVar("Command", bound=Callable[..., None])

AUTO = "auto"  # fusion: aligned for streams, else tokens


@dataclass(frozen=True)
class Option:
    """How a field is shown on the command line."""

    help: str
    least: float | None = None  # where the field's own range allows less
    choices: tuple[str, ...] = ()


DATA = {
    "image_size": Option("Pixels of a side; images become squares.", 8),
    "image_channels": Option("3: RGB, 1: grey."),
    "max_pixels": Option("An image file of more pixels is refused, before it is decoded."),
    "sample_rate": Option("Hz; clips at other rates are resampled."),
    "window_ms": Option("Milliseconds of one Fourier window."),
    "hop_ms": Option("Milliseconds from one log-mel frame to the next."),
    "mels": Option("Mel bands."),
    "vocabulary": Option("Tokens that are learned from the training texts, at most.", 256),
    "max_tokens": Option("A longer text is cut."),
    "max_seconds": Option("A longer clip is refused, before it is decoded."),
    "max_characters": Option("A longer text is refused."),
    "max_series": Option("A numeric series of more numbers is refused."),
}
MODEL = {
    "fusion": Option(
        "How modalities meet; auto is aligned for streams, else tokens.", choices=(AUTO, *FUSIONS)
    ),
    "cell": Option("The fusing recurrent layer; none leaves it out.", choices=CELLS),
    "width": Option("Features of each encoder."),
    "hidden": Option("Size of the fusing recurrent layer."),
    "conv": Option("Channels of each image stage, which halves its size: 32,64."),
    "grid": Option("An image becomes grid × grid features of the last stage; 0: all of them."),
    "image_steps": Option("An image is a sequence of grid² steps, not one vector."),
    "strides": Option("Of each convolution over audio or a numeric series: 2,2."),
    "modality_dropout": Option("How often, in training, a modality is taken for missing."),
    "normalise": Option("concat: LayerNorm of each modality's features first."),
    "encoders": Option("Encoders that are not the usual: image=NAME,text=NAME."),
}
TRAIN = {
    "epochs": Option("Passes over the training rows."),
    "batch": Option("Rows of a training step, over all processes."),
    "rate": Option("The learning rate: the highest of the cycle."),
    "schedule": Option("What becomes of the learning rate.", choices=SCHEDULES),
    "clip": Option("The norm that gradients are clipped to."),
    "seed": Option("Of the split, the weights and the order."),
    "precision": Option("What the network computes in.", choices=PRECISIONS),
    "accumulate": Option("A step's rows are computed in so many parts, which takes less memory."),
    "patience": Option("Stop after so many epochs without a better val score; 0: never."),
    "balance": Option("Weigh labels by the inverse of how often they occur."),
    "save_every": Option("Seconds between checkpoints within an epoch; there is one after each."),
    "freeze": Option("Parts that keep their weights: encoders by name, fusion, head."),
}
COLUMNS = {
    "image": "The column of image paths.",
    "audio": "The column of audio paths.",
    "text": "The column of texts.",
    "series": "The column of numeric series: JSON lists, or paths of .csv or .npy files.",
    "label": "The column of labels.",
    "split": "The column of train, val, test.",
    "group": "Rows that share a value of this column never fall into different splits.",
}
_SECTIONS = (
    (DataConfig, DATA, "Data"),
    (ModelConfig, MODEL, "Model"),
    (TrainConfig, TRAIN, "Training"),
)
_HINTS = {
    name: get_type_hints(kind, include_extras=True)[name]
    for kind, options, _ in _SECTIONS
    for name in options
}
_TYPES = {name: get_type_hints(kind)[name] for kind, options, _ in _SECTIONS for name in options}
LISTS = {name for name, kind in _TYPES.items() if kind not in (int, float, str, bool)}
NAMES = tuple(_TYPES)


def sections(options: Mapping[str, Any]) -> tuple[DataConfig, dict[str, Any], TrainConfig]:
    """Options by name, as what `experiment.fit` takes: data, fields of the model, training.

    Raises:
        ConfigError: a name that is no option (the nearest is named), or a value that cannot be.
    """
    check_names(options, NAMES)
    values: dict[str, Any] = {
        name: as_tuple(name, value) if name in LISTS else value for name, value in options.items()
    }
    if values.get("fusion") == AUTO:
        del values["fusion"]
    data: dict[str, Any]
    data, model, training = (
        {name: values[name] for name in section if name in values} for _, section, _ in _SECTIONS
    )
    # The rest of a ModelConfig is not known yet.
    model = {name: parse(_HINTS[name], value, name) for name, value in model.items()}
    return DataConfig(**data), model, TrainConfig(**training)


def as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """The value of a list option, from "32,64" or from a sequence.

    Raises:
        ConfigError: it is neither, or its parts are not what the option holds.
    """
    parts = value.split(",") if isinstance(value, str) else value
    if isinstance(value, Mapping):
        parts = value.items()
    try:
        texts = [each.strip() if isinstance(each, str) else each for each in parts]
        texts = [each for each in texts if each != ""]
        if name == "encoders":
            pairs = [each.split("=") if isinstance(each, str) else each for each in texts]
            return tuple((str(modality), str(encoder)) for modality, encoder in pairs)
        if name == "freeze":
            return tuple(str(each) for each in texts)
        return tuple(int(each) if isinstance(each, str) else operator.index(each) for each in texts)
    except (TypeError, ValueError):
        examples = {"encoders": "image=NAME", "freeze": "text,fusion", "strides": "2,2"}
        example = examples.get(name, "32,64")
        raise ConfigError(f"{name} is written {example}; got {reprlib.repr(value)}") from None


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a name that is not known.

    Raises:
        ConfigError: names it and the nearest that is.
    """
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1, 0.5)
            remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{name!r} is no option; {remedy}")


def read_yaml(path: Path, known: Iterable[str]) -> dict[str, Any]:
    """Options of a YAML file: name -> text as a flag would have it. Names with "-" or "_".

    Raises:
        ConfigError: it cannot be read, is no mapping, or has a key that is no option.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a YAML file") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(
            f"{path}: not YAML ({error}); write a line `epochs: 20` an option"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: no mapping; write a line `epochs: 20` an option")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    try:
        check_names(values, known)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return as_flags({name: value for name, value in values.items() if value is not None})


def as_flags(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as the text of a flag, to be read as a flag's is: 2.5 is no whole number of epochs."""

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            value = [f"{key}={each}" for key, each in value.items()]
        if not isinstance(value, (list, tuple)):
            return str(value)
        return ",".join(each if isinstance(each, str) else _pair(each) for each in value)

    def _pair(value: Any) -> str:
        return "=".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    return {name: text(value) for name, value in values.items()}


def write_yaml(path: Path, options: Mapping[str, Any]) -> None:
    """Write options so that `read_yaml` reads them; what was not set is left out."""
    values = {name: _plain(name, value) for name, value in options.items() if value is not None}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    files.write(path, "# The options of this run; again: fastrnn fit --config FILE\n" + text)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if name == "encoders":
        return dict(as_tuple(name, value))
    return list(as_tuple(name, value)) if name in LISTS else value


def preset(name: str) -> dict[str, Any]:
    """A preset's options by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset is one of {', '.join(PRESETS)}; got {name!r}")
    chosen = PRESETS[name]
    return {**chosen.data, **chosen.model, **chosen.train}


def with_columns(command: Command) -> Command:
    """Give a typer command that takes **options a flag for each role of a column."""
    panel = "Columns"
    return _append(
        command,
        (
            _flag(
                role,
                str | None,
                None,
                typer.Option(metavar="NAME", help=help, rich_help_panel=panel),
            )
            for role, help in COLUMNS.items()
        ),
    )


def with_fields(command: Command) -> Command:
    """Give a typer command that takes **options a flag for each option of a fit."""
    return _append(
        command,
        (
            _parameter(kind, name, option, panel)
            for kind, section, panel in _SECTIONS
            for name, option in section.items()
        ),
    )


def _append(command: Command, flags: Iterable[inspect.Parameter]) -> Command:
    # Typer reads the signature, so a parameter added there is a flag like any other.
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore
    return command


def _parameter(section: type, name: str, option: Option, panel: str) -> inspect.Parameter:
    kind: Any = _TYPES[name]
    default = default_of(section, name)
    if option.choices:
        make: Any = Enum  # whose members no type checker could know
        kind = make(name, {each.replace("-", "_"): each for each in option.choices}, type=str)
        default = kind(AUTO if AUTO in option.choices else default)
    elif name in LISTS:
        kind, default = str, ",".join(str(each) for each in default)
    least, most = _range(name)
    least = least if option.least is None else option.least
    flag = typer.Option(min=least, max=most, help=option.help, rich_help_panel=panel)
    return _flag(name, kind, default, flag)


def _range(name: str) -> tuple[float | None, float | None]:
    """The bounds of a number, for its help; the field's own check knows them exactly."""
    for each in getattr(_HINTS[name], "__metadata__", ()):
        if isinstance(each, Range):
            least, most = max(each.least, each.above), each.most
            return None if math.isinf(least) else least, None if math.isinf(most) else most
    return None, None


def _flag(name: str, kind: Any, default: Any, flag: Any) -> inspect.Parameter:
    only = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, only, default=default, annotation=Annotated[kind, flag])


def default_of(section: type, name: str) -> Any:
    """The default of a dataclass's field."""
    for each in fields(section):
        if each.name == name and each.default is not MISSING:
            return each.default
    raise KeyError(name)
