"""The options of a fit. Flags, YAML keys and keyword arguments use the same names.

Each option is a field of DataConfig, ModelConfig or TrainConfig, which define its default. Its help
text is defined here. Fields that follow from the data (modalities, labels, the size of the
vocabulary) are not options.
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

from .. import files
from ..errors import ConfigError
from .parser import Range, parse
from .presets import PRESETS
from .schema import CELLS, FUSIONS, PRECISIONS, SCHEDULES, DataConfig, ModelConfig, TrainConfig

Command = TypeVar("Command", bound=Callable[..., None])

AUTO = "auto"  # the fusion is aligned for streams, else tokens


@dataclass(frozen=True)
class Option:
    """How the command line shows a field."""

    help: str
    least: float | None = None  # overrides a lower minimum in the field's own range
    choices: tuple[str, ...] = ()


DATA = {
    "image_size": Option("Side length in pixels; images are resized to squares.", 8),
    "image_channels": Option("Image channels: 3 for RGB, 1 for grey."),
    "max_pixels": Option("Maximum number of pixels; larger images are rejected undecoded."),
    "sample_rate": Option("Sampling rate in Hz; clips with other rates are resampled."),
    "window_ms": Option("Length of the Fourier window in milliseconds."),
    "hop_ms": Option("Hop between log-mel frames in milliseconds."),
    "mels": Option("Number of mel bands."),
    "vocabulary": Option("Maximum number of tokens learned from the training texts.", 256),
    "max_tokens": Option("Maximum number of tokens; longer texts are truncated."),
    "max_seconds": Option("Maximum clip length in seconds; longer clips are rejected undecoded."),
    "max_characters": Option("Maximum number of characters; longer texts are rejected."),
    "max_series": Option("Maximum numbers in a numeric series; longer series are rejected."),
}
MODEL = {
    "fusion": Option(
        "Fusion of the modalities; auto is aligned for streams, else tokens.",
        choices=(AUTO, *FUSIONS),
    ),
    "cell": Option("Cell of the recurrent layers; none omits the fusing one.", choices=CELLS),
    "width": Option("Number of features of each encoder."),
    "hidden": Option("Hidden size of the fusing recurrent layer."),
    "conv": Option("Channels of each image stage, for example 32,64; a stage halves the size."),
    "grid": Option("Pool the last image stage to grid × grid features; 0 keeps all of them."),
    "image_steps": Option("Read an image as a sequence of grid² steps, not as one vector."),
    "strides": Option("Strides of the convolutions over audio or numeric series, as in 2,2."),
    "modality_dropout": Option("Probability of dropping a modality of a row in training."),
    "normalise": Option("Fusion concat: apply LayerNorm to the features of each modality."),
    "encoders": Option("Custom encoders by modality: image=NAME,text=NAME."),
}
TRAIN = {
    "epochs": Option("Number of passes over the training rows."),
    "batch_size": Option("Rows per training step, over all processes."),
    "learning_rate": Option("Learning rate; the maximum of the cycle."),
    "schedule": Option("Learning rate schedule.", choices=SCHEDULES),
    "max_grad_norm": Option("Maximum gradient norm; larger gradients are clipped."),
    "seed": Option("Seed of the split, the initial weights and the order of the rows."),
    "precision": Option("Precision of the computation.", choices=PRECISIONS),
    "gradient_accumulation_steps": Option(
        "Gradient accumulation: parts per training step, to save memory."
    ),
    "patience": Option("Stop after this many epochs without a better val score; 0 disables it."),
    "balance": Option("Weight labels by their inverse frequency."),
    "save_every": Option("Seconds between checkpoints in an epoch; each epoch ends with one."),
    "freeze": Option("Parts to keep frozen: encoders by modality, fusion, head."),
}
COLUMNS = {
    "image": "Column of image paths.",
    "audio": "Column of audio paths.",
    "text": "Column of texts.",
    "series": "Column of numeric series: JSON lists, or paths of .csv or .npy files.",
    "label": "Column of labels.",
    "split": "Column of splits: train, val or test.",
    "group": "Column of groups; rows of one group stay in the same split.",
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
    """Split options into the arguments of `experiment.fit`: data, model fields and training.

    Raises:
        ConfigError: an unknown option (the message suggests the closest), or an invalid value.
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
    # The other fields of ModelConfig are not known yet.
    model = {name: parse(_HINTS[name], value, name) for name, value in model.items()}
    return DataConfig(**data), model, TrainConfig(**training)


def as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """Parse the value of a list option, from "32,64" or from a sequence.

    Raises:
        ConfigError: it is neither, or an item has the wrong type.
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


def read_yaml(path: Path, known: Iterable[str]) -> dict[str, Any]:
    """Read options from a YAML file: name -> the text of the flag. Names may use "-" or "_".

    Raises:
        ConfigError: the file cannot be read, is not a mapping, or has an unknown key.
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
        check_names(values, known)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return as_flags({name: value for name, value in values.items() if value is not None})


def as_flags(values: Mapping[str, Any]) -> dict[str, str]:
    """Convert values to the text of flags, so that they are checked alike: epochs 2.5 fails."""

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
    """Write options in the format of `read_yaml`. Options that are None are omitted."""
    values = {name: _plain(name, value) for name, value in options.items() if value is not None}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    files.write(path, "# Options of this run; reuse them with: fastrnn fit --config FILE\n" + text)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if name == "encoders":
        return dict(as_tuple(name, value))
    return list(as_tuple(name, value)) if name in LISTS else value


def preset(name: str) -> dict[str, Any]:
    """Return a preset's options by name.

    Raises:
        ConfigError: the preset is unknown.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    chosen = PRESETS[name]
    return {**chosen.data, **chosen.model, **chosen.train}


def with_columns(command: Command) -> Command:
    """Add a flag for each column role to a typer command that takes **options."""
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
    """Add a flag for each option of a fit to a typer command that takes **options."""
    return _append(
        command,
        (
            _parameter(kind, name, option, panel)
            for kind, section, panel in _SECTIONS
            for name, option in section.items()
        ),
    )


def _append(command: Command, flags: Iterable[inspect.Parameter]) -> Command:
    # Typer creates its flags from the signature.
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore
    return command


def _parameter(section: type, name: str, option: Option, panel: str) -> inspect.Parameter:
    kind: Any = _TYPES[name]
    default = default_of(section, name)
    if option.choices:
        make: Any = Enum  # type checkers cannot know its members
        kind = make(name, {each.replace("-", "_"): each for each in option.choices}, type=str)
        default = kind(AUTO if AUTO in option.choices else default)
    elif name in LISTS:
        kind, default = str, ",".join(str(each) for each in default)
    least, most = _range(name)
    least = least if option.least is None else option.least
    flag = typer.Option(min=least, max=most, help=option.help, rich_help_panel=panel)
    return _flag(name, kind, default, flag)


def _range(name: str) -> tuple[float | None, float | None]:
    """Return the bounds of a number, for its help. The field's own check is exact."""
    for each in getattr(_HINTS[name], "__metadata__", ()):
        if isinstance(each, Range):
            least, most = max(each.least, each.above), each.most
            return None if math.isinf(least) else least, None if math.isinf(most) else most
    return None, None


def _flag(name: str, kind: Any, default: Any, flag: Any) -> inspect.Parameter:
    only = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, only, default=default, annotation=Annotated[kind, flag])


def default_of(section: type, name: str) -> Any:
    """Return the default of a dataclass field."""
    for each in fields(section):
        if each.name == name and each.default is not MISSING:
            return each.default
    raise KeyError(name)
