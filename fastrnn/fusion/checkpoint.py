"""Save and load the models in a run's folder: the main one and its baselines.

| file | |
|---|---|
| config.json, model.safetensors | the run, and its main network at its best epoch |
| processor_config.json, tokenizer*.json | labels, scales and tokenizers, see data/processor.py |
| models/SLUG/config.json | a network's ModelConfig; see `slug` |
| models/SLUG/model.safetensors | its weights at its best epoch |
| models/SLUG/last.safetensors | its weights after its last epoch, if that was not the best |

Nothing is pickled, so loading an untrusted folder executes none of its code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import files, run_lock
from .config import parser
from .config.inputs import of_modality
from .config.schema import ModelConfig, RunConfig
from .data import processor as processors
from .data.processor import Processor
from .errors import ConfigError
from .models.imported import import_encoders
from .models.network import FusionNetwork, LateNetwork, blueprint, build, has_custom

CONFIG, WEIGHTS = "config.json", "model.safetensors"
METRICS = "metrics.jsonl"
MODELS, _LAST = "models", "last.safetensors"
FILES = (CONFIG, WEIGHTS, processors.CONFIG, processors.TOKENIZER)

Weights = dict[str, Tensor]
Network = FusionNetwork | LateNetwork


class Loaded(NamedTuple):
    """The model of a run."""

    network: Network
    processor: Processor
    config: RunConfig


def weights(model: nn.Module) -> Weights:
    """Copy the model's state dict to the CPU."""
    return {name: each.detach().cpu().clone() for name, each in model.state_dict().items()}


def save_config(folder: Path, config: RunConfig, processor: Processor) -> None:
    """Write everything that `load` needs, except the weights."""
    files.write_json(folder / CONFIG, config.to_json())
    processor.save(folder)


def save(folder: Path, config: RunConfig, model: nn.Module, processor: Processor) -> None:
    """Write everything that `load` needs; `folder` must exist."""
    save_config(folder, config, processor)
    _write_weights(folder / WEIGHTS, weights(model))


def load(folder: str | Path, *, encoders: Mapping[str, str] | None = None) -> Loaded:
    """Load the model of a run, in evaluation mode on the CPU, with processor and configuration.

    Args:
        encoders: input or modality -> package.module:Class, the custom encoders of the run. They
            are imported, which executes their code, so they are not taken from the folder.

    Raises:
        ConfigError: the folder contains no run, or a run that was stopped before it saved a model
            or is of another version, or its files are damaged or inconsistent. The message names
            the file.
    """
    folder = Path(folder)
    import_encoders(encoders or {})
    config, processor = read_config(folder)
    if processor.tokenizer is not None:
        _check_tokens(processor.tokenizer, config.model, folder / processors.TOKENIZER)
    return Loaded(_load_weights(config.model, folder / WEIGHTS), processor, config)


def read_config(folder: Path) -> tuple[RunConfig, Processor]:
    """Read the configuration and the processor in a run's folder.

    Raises:
        ConfigError: the folder contains no model, or a file is missing, damaged or inconsistent.
            The message names it.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        unfinished = run_lock.unfinished(folder)
        if unfinished:
            raise ConfigError(unfinished)
        raise ConfigError(f"{folder}: contains no {CONFIG} and {WEIGHTS}; give a run's folder")
    path = folder / CONFIG
    config = parser.read(RunConfig, path)
    processor = Processor.load(folder)
    for problem in _contradictions(config.model, processor):
        raise ConfigError(f"{path}: damaged: {problem}; restore it")
    return config, processor


def _contradictions(model: ModelConfig, processor: Processor) -> Iterator[str]:
    """Yield a message for each field of the model that contradicts the processor."""
    wanted = {
        "modalities": processor.modalities,
        "stream": processor.stream,
        "problem_type": processor.task.problem_type,
        "outputs": processor.task.num_outputs,
    }
    for name in model.modalities:
        pretrained = model.pretrained_of(model.encoder_of(name))
        declared = processor.preprocessing.get(name)
        if pretrained and pretrained.preprocessing != declared:
            yield f"the pretrained encoder of {name} contradicts {processors.CONFIG}"
        tokenizer = processor.tokenizers.get(name)
        if pretrained and tokenizer and tokenizer.get_vocab_size() > pretrained.vocabulary:
            yield f"the tokenizer of {name} has more tokens than its encoder"
    if of_modality(model.modalities, "image"):
        wanted["image_size"] = processor.config.image_size
        wanted["image_channels"] = processor.config.image_channels
    if of_modality(model.modalities, "audio"):
        wanted["mels"] = processor.config.mels
    if of_modality(model.modalities, "series"):
        wanted["variables"] = processor.variables
        wanted["series_variables"] = processor.series_variables
    wanted |= {"numbers": processor.numbers, "categories": processor.categories}
    for name, value in wanted.items():
        if getattr(model, name) != value:
            yield f"model.{name} is {getattr(model, name)}, but {value} in {processors.CONFIG}"


def _check_tokens(tokenizer: Tokenizer, model: ModelConfig, path: Path) -> None:
    """Reject a tokenizer whose token ids are not those that the model embeds."""
    numbers = set(tokenizer.get_vocab().values())
    if numbers != set(range(model.vocabulary)) or not numbers.issuperset(tokenizer.encode("a").ids):
        raise ConfigError(
            f"{path}: not this model's tokenizer: its {len(numbers):,} token ids are not the "
            f"{model.vocabulary:,} of the model; restore it"
        )


def slug(name: str) -> str:
    """Return the folder name of a network: "image_front-only" for "image:front only"."""
    return name.replace(" ", "-").replace(":", "_")


def save_network(
    folder: Path, name: str, config: ModelConfig, best: Weights, last: Weights | None = None
) -> None:
    """Write everything that `load_network` needs.

    Args:
        best: the weights after the best epoch.
        last: the weights after the last epoch, if `best` is an earlier one.
    """
    place = folder / MODELS / slug(name)
    place.mkdir(parents=True, exist_ok=True)
    files.write_json(place / CONFIG, asdict(config))
    if last is None:
        files.remove(place / _LAST)
    else:
        _write_weights(place / _LAST, last)
    _write_weights(place / WEIGHTS, best)


def names(folder: str | Path) -> list[str]:
    """List the networks that `load_network` finds in a run's folder; the first is the main one.

    Raises:
        ConfigError: config.json is missing or damaged.
    """
    folder = Path(folder)
    there = {each.parent.name for each in (folder / MODELS).glob(f"*/{WEIGHTS}")}
    known = [name for name in parser.read(RunConfig, folder / CONFIG).models if slug(name) in there]
    return known + sorted(each.replace("-", " ") for each in there - {slug(name) for name in known})


def load_network(folder: str | Path, name: str, *, last: bool = False) -> Network:
    """Load a network of a run by name ("fusion", "image only", "late", ...).

    Args:
        last: load the weights after the last epoch instead of those after the best one.

    Returns:
        The network in evaluation mode on the CPU.

    Raises:
        ConfigError: there is no network of that name (the message lists those that exist), or a
            file is damaged or of another version.
    """
    place = Path(folder) / MODELS / slug(name)
    file = place / WEIGHTS
    if not file.is_file() or not (place / CONFIG).is_file():
        known = ", ".join(names(folder)) or "none"
        raise ConfigError(f"{folder}: no network {name!r} in {MODELS}; there are: {known}")
    config = parser.read(ModelConfig, place / CONFIG)
    if last and (place / _LAST).is_file():
        file = place / _LAST
    return _load_weights(config, file)


def _load_weights(config: ModelConfig, file: Path) -> Network:
    """Build a network with the weights of a file, in evaluation mode.

    Shapes are compared first, since an untrusted configuration may describe a network of any size
    and building it allocates the memory.
    """
    try:
        if not has_custom(config):
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
        f"{name} has the shape {there.get(name, 'none')}, but {CONFIG} describes "
        f"{wanted.get(name, 'no such tensor')}"
        for name in sorted(wanted.keys() | there.keys())
        if wanted.get(name) != there.get(name)
    ]
    if different:
        more = f"; and {len(different) - 1} others" if len(different) > 1 else ""
        raise RuntimeError(different[0] + more)


def _write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    files.write(path, to_bytes({name: each.contiguous() for name, each in tensors.items()}))
