"""Save and load the models in a run's folder: the main one and its baselines.

| file | |
|---|---|
| config.json, model.safetensors, tokenizer.json | the run, and its main network at its best epoch |
| models/SLUG/config.json | a network's ModelConfig; the slug is its name with "-" for spaces |
| models/SLUG/model.safetensors | its weights at its best epoch |
| models/SLUG/last.safetensors | its weights after its last epoch, if that was not the best |

Nothing is pickled, so loading an untrusted folder executes none of its code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import files
from .config import parser as schema
from .config.schema import ModelConfig, RunConfig
from .data.processor import Preprocessor
from .data.text import load_tokenizer
from .errors import ConfigError
from .models.encoders import BUILT_IN
from .models.network import FusionNetwork, LateNetwork, blueprint, build
from .tasks import objectives
from .training import loggers as log
from .training import state as resume
from .training.loggers import METRICS

_CONFIG, _WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
_MODELS, _LAST = "models", "last.safetensors"
FILES = (_CONFIG, _WEIGHTS, TOKENIZER)

Weights = dict[str, Tensor]


def weights(model: nn.Module) -> Weights:
    """Copy the model's state dict to the CPU."""
    return {name: each.detach().cpu().clone() for name, each in model.state_dict().items()}


def save_config(folder: Path, config: RunConfig, preprocessor: Preprocessor) -> None:
    """Write everything that `load` needs, except the weights."""
    files.write_json(folder / _CONFIG, config.to_json())
    if preprocessor.tokenizer is not None:
        files.write(folder / TOKENIZER, preprocessor.tokenizer.to_str(pretty=True))


def save(folder: Path, config: RunConfig, model: nn.Module, preprocessor: Preprocessor) -> None:
    """Write everything that `load` needs; `folder` must exist."""
    save_config(folder, config, preprocessor)
    _write_weights(folder / _WEIGHTS, weights(model))


def load(folder: str | Path) -> tuple[FusionNetwork | LateNetwork, Preprocessor, RunConfig]:
    """Load the model of a run, in evaluation mode on the CPU, with preprocessor and configuration.

    Raises:
        ConfigError: the folder contains no run, or a run that was stopped before it saved a model
            or is of another version, or its files are damaged or inconsistent. The message names
            the file.
    """
    folder = Path(folder)
    if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
        unfinished = resume.unfinished(folder)
        if unfinished:
            raise ConfigError(unfinished)
        raise ConfigError(f"{folder}: contains no {_CONFIG} and {_WEIGHTS}; give a run's folder")
    config = read_config(folder)
    tokenizer = None
    if "text" in config.model.modalities:
        tokenizer = load_tokenizer(folder / TOKENIZER)
        _check_tokens(tokenizer, config.model, folder / TOKENIZER)
    model = _load_weights(config.model, folder / _WEIGHTS)
    return model, Preprocessor.restore(config, tokenizer), config


def read_config(folder: Path) -> RunConfig:
    """Read the configuration in a run's folder.

    Raises:
        ConfigError: the file is missing, damaged or inconsistent. The message names it.
    """
    path = folder / _CONFIG
    config = schema.read(RunConfig, path)
    for problem in _contradictions(config):
        raise ConfigError(f"{path}: damaged: {problem}; restore it")
    return config


def _contradictions(config: RunConfig) -> Iterator[str]:
    """Yield a message for each pair of fields that contradict each other."""
    data, model, labels = config.data, config.model, len(config.labels)
    for modality, name in (("image", "image_size"), ("image", "image_channels"), ("audio", "mels")):
        there, wanted = getattr(data, name), getattr(model, name)
        if modality in model.modalities and there != wanted:
            yield f"data.{name} is {there}, but model.{name} is {wanted}"
    if "series" in model.modalities and len(config.series) != model.variables:
        yield f"series has {len(config.series)} items, but model.variables is {model.variables}"
    count = {"binary": 2, "regression": 0}.get(model.problem_type, labels)
    if labels != count or model.outputs != objectives.outputs(model.problem_type, labels):
        yield (
            f"{labels} labels and {model.outputs} outputs do not match the problem type "
            f"{model.problem_type}"
        )


def _check_tokens(tokenizer: Tokenizer, model: ModelConfig, path: Path) -> None:
    """Reject a tokenizer whose token ids are not those that the model embeds."""
    numbers = set(tokenizer.get_vocab().values())
    if numbers != set(range(model.vocabulary)) or not numbers.issuperset(tokenizer.encode("a").ids):
        raise ConfigError(
            f"{path}: not this model's tokenizer: its {len(numbers):,} token ids are not the "
            f"{model.vocabulary:,} of the model; restore it"
        )


def slug(name: str) -> str:
    """Return the folder name of a network."""
    return name.replace(" ", "-")


def save_network(
    folder: Path, name: str, config: ModelConfig, best: Weights, last: Weights | None = None
) -> None:
    """Write everything that `load_network` needs.

    Args:
        best: the weights after the best epoch.
        last: the weights after the last epoch, if `best` is an earlier one.
    """
    place = folder / _MODELS / slug(name)
    place.mkdir(parents=True, exist_ok=True)
    files.write_json(place / _CONFIG, asdict(config))
    if last is None:
        files.remove(place / _LAST)
    else:
        _write_weights(place / _LAST, last)
    _write_weights(place / _WEIGHTS, best)


def names(folder: str | Path) -> list[str]:
    """List the networks that `load_network` finds in a run's folder, in the order of training."""
    folder = Path(folder)
    there = {each.parent.name for each in (folder / _MODELS).glob(f"*/{_WEIGHTS}")}
    order: dict[str, None] = {}
    if (folder / METRICS).is_file():
        order = dict.fromkeys(each["model"] for each in log.read(folder / METRICS))
    known = [name for name in order if slug(name) in there]
    return known + sorted(each.replace("-", " ") for each in there - {slug(name) for name in known})


def load_network(
    folder: str | Path, name: str, *, last: bool = False
) -> FusionNetwork | LateNetwork:
    """Load a network of a run by name ("fusion", "image only", "late", ...).

    Args:
        last: load the weights after the last epoch instead of those after the best one.

    Returns:
        The network in evaluation mode on the CPU.

    Raises:
        ConfigError: there is no network of that name (the message lists those that exist), or a
            file is damaged or of another version.
    """
    place = Path(folder) / _MODELS / slug(name)
    file = place / _WEIGHTS
    if not file.is_file() or not (place / _CONFIG).is_file():
        known = ", ".join(names(folder)) or "none"
        raise ConfigError(f"{folder}: no network {name!r} in {_MODELS}; there are: {known}")
    config = schema.read(ModelConfig, place / _CONFIG)
    if last and (place / _LAST).is_file():
        file = place / _LAST
    return _load_weights(config, file)


def _load_weights(config: ModelConfig, file: Path) -> FusionNetwork | LateNetwork:
    """Build a network with the weights of a file, in evaluation mode.

    Shapes are compared first, since an untrusted configuration may describe a network of any size
    and building it allocates the memory.
    """
    try:
        # A custom encoder may not support construction on the meta device.
        if BUILT_IN.issuperset(name for _, name in config.encoders):
            _compare_shapes(blueprint(config), file)
        network = build(config)
        network.load_state_dict(load_file(file))
    except ConfigError as error:
        raise ConfigError(f"{file.parent}: {error}") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: not this network's weights, or damaged: {reason}") from None
    return network.eval()


def _compare_shapes(network: nn.Module, file: Path) -> None:
    """Reject a file whose tensor names or shapes differ from the network's."""
    wanted = {name: list(each.shape) for name, each in network.state_dict().items()}
    with safe_open(str(file), framework="pt") as reader:
        there = {name: reader.get_slice(name).get_shape() for name in reader.keys()}  # noqa: SIM118
    different = [
        f"{name} has the shape {there.get(name, 'none')}, but {_CONFIG} describes "
        f"{wanted.get(name, 'no such tensor')}"
        for name in sorted(wanted.keys() | there.keys())
        if wanted.get(name) != there.get(name)
    ]
    if different:
        more = f"; and {len(different) - 1} others" if len(different) > 1 else ""
        raise RuntimeError(different[0] + more)


def _write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    files.write(path, to_bytes({name: each.contiguous() for name, each in tensors.items()}))
