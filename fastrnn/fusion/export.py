"""Export a network to ONNX; recurrent layers become ONNX's RNN, LSTM and GRU operators.

The inputs have the names of a batch (see batch.py), with any number of rows and steps. Only
images differ, which hold the decoded and resized pixels: uint8 [B, C, S, S], or
[B, T, C, S, S] for streams. An input that rows may lack also has the input NAME_present,
bool [B]. The outputs are `logits` and `probabilities`, as in tasks/base.py.

The file is kept only if its outputs in onnxruntime match the network's, also on batches of other
sizes than the traced one. recipe.py reads the metadata to predict raw rows without fastrnn.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastrnn._rounding import CONFIDENCE, UNIT_ROUNDOFF

from .batch import Batch, select_rows
from .config.inputs import modality_of, of_modality
from .config.schema import ModelConfig, RunConfig
from .data.processor import Processor
from .deployment import describe
from .errors import ConfigError
from .files import atomic
from .models.network import FusionNetwork, LateNetwork
from .models.text import NgramReadout
from .models.torch_layers import with_torch_layers
from .strings import plural
from .tasks import Task

if TYPE_CHECKING:
    import onnxruntime

OUTPUTS = ("logits", "probabilities")
_OPSET = 17
_LENGTHS = ("audio", "series", "text")  # modalities with NAME_lengths
_NGRAMS = ("_ngrams", "_ngram_weights")  # the endings of the n-grams of a text


def to_onnx(
    network: FusionNetwork | LateNetwork,
    processor: Processor,
    batch: Batch,
    path: str | Path,
    config: RunConfig | None = None,
) -> Path:
    """Export a network to `path` and verify the file.

    Args:
        network: the network to export.
        processor: its processor, which is stored in the file's metadata.
        batch: a batch of two or more rows for tracing and verification.
        path: the file to write.
        config: the configuration of its run, whose threshold and names of columns are stored. By
            default, they are 0.5 and the names of the inputs.

    Returns:
        The path.

    Raises:
        ConfigError: onnx or onnxruntime is not installed; a part of the network cannot be
            expressed in ONNX; or the outputs of the file differ. In the last case no file is left.
        OSError: the file cannot be written.
    """
    path = Path(path)
    _require()
    _check_exportable(network.config)
    network = copy.deepcopy(network).cpu().eval()
    batch = {name: value.cpu() for name, value in batch.items()}
    names = inputs_of(network, batch)
    module = _Exported(network, processor.task, names)
    inputs = to_inputs(network, batch)
    with atomic(path) as partial:
        _trace(module, inputs, _axes(network, inputs), partial)
        describe(partial, network.config, processor, config)
        _prove(network, batch, partial)
    return path


def inputs_of(network: FusionNetwork | LateNetwork, batch: Batch) -> list[str]:
    """Return the names of the file's inputs, in order."""
    config = network.config
    replaced = config.modalities if config.modality_dropout else config.missing
    texts = of_modality(config.modalities, "text") if _reads_ngrams(network) else ()
    names = []
    for name in config.modalities:
        if name == "tabular":
            names += ["tabular", "tabular_known"] if config.numbers else []
            names += ["tabular_categories"] if config.categories else []
        else:
            names.append(name)
        if modality_of(name) in _LENGTHS:
            names.append(f"{name}_lengths")
        if name in texts:
            names += [f"{name}_ngrams", f"{name}_ngram_weights"]
        if name in replaced or f"{name}_present" in batch:
            names.append(f"{name}_present")
    return [*names, "steps"] if config.stream else names


def _reads_ngrams(network: FusionNetwork | LateNetwork) -> bool:
    return any(isinstance(module, NgramReadout) for module in network.modules())


def to_inputs(network: FusionNetwork | LateNetwork, batch: Batch) -> dict[str, Tensor]:
    """Convert a batch to the file's inputs: pixels replace frames and their indices."""
    inputs = {}
    images = of_modality(network.config.modalities, "image")
    for name in inputs_of(network, batch):
        if name in images:
            inputs[name] = batch[f"{name}_frames"][batch[name]]
        elif name not in batch:  # NAME_present
            rows = batch[network.config.modalities[0]].shape[0]
            inputs[name] = torch.ones(rows, dtype=torch.bool)
        else:
            inputs[name] = batch[name]
    return inputs


def run(session: onnxruntime.InferenceSession, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run an exported file; return its logits and probabilities."""
    known = {each.name for each in session.get_inputs()}
    given = {name: value.numpy() for name, value in inputs.items() if name in known}
    return dict(zip(OUTPUTS, map(torch.as_tensor, session.run(OUTPUTS, given)), strict=True))


class _Exported(nn.Module):
    """The network with positional inputs, pixels instead of frames, and torch's layers."""

    def __init__(self, network: FusionNetwork | LateNetwork, task: Task, names: list[str]) -> None:
        super().__init__()
        self.task = task
        self.names = names
        self.images = of_modality(network.config.modalities, "image")
        self.network = with_torch_layers(network)
        for module in list(self.network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(child.output_size, int):
                    setattr(module, name, _GridPool(child.output_size))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        batch = dict(zip(self.names, inputs, strict=True))
        for name in self.images:
            pixels = batch[name]  # [B, C, S, S] or [B, T, C, S, S]
            frames = pixels.flatten(0, -4) if pixels.dim() == 5 else pixels
            batch[f"{name}_frames"] = frames
            shape = pixels.shape[: pixels.dim() - 3]
            batch[name] = torch.arange(frames.shape[0]).view(shape)
        logits = self.network(batch)
        return logits, self.task.probabilities(logits)


class _GridPool(nn.Module):
    """AdaptiveAvgPool2d as two constant matrix products; ONNX has no operator for uneven sizes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Pool x [U, C, h, w] to [U, C, size, size]."""
        return self.shares(int(x.shape[2])) @ x @ self.shares(int(x.shape[3])).t()

    def shares(self, inputs: int) -> Tensor:
        """Return the averaging weights, [size, inputs]."""
        eye = torch.eye(inputs)[:, None]
        return nn.functional.adaptive_avg_pool1d(eye, self.size)[:, 0].t().contiguous()


def _check_exportable(config: ModelConfig) -> None:
    for name in of_modality(config.modalities, "audio"):
        if config.pretrained_of(config.encoder_of(name)) is not None:
            raise ConfigError(
                f"the pretrained encoder of {name} cannot be exported: what it computes depends on "
                "the lengths of the clips; train without audio, or with the built-in encoder"
            )


def _require() -> None:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"exporting needs {error.name}: pip install 'fastrnn[fusion,onnx]'"
        ) from None
    del onnx, onnxruntime


def _axes(network: FusionNetwork | LateNetwork, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    axes: dict[str, dict[int, str]] = {}
    config = network.config
    for name in inputs:
        axes[name] = {0: "rows"}
        if name in config.modalities and modality_of(name) in _LENGTHS:
            axes[name][1] = f"{name}_steps"
        if name.endswith(_NGRAMS):
            axes[name][1] = f"{name.removesuffix('_ngram_weights').removesuffix('_ngrams')}_ngrams"
        if name == "steps" or (name in of_modality(config.modalities, "image") and config.stream):
            axes[name][1] = "steps"
    for name in OUTPUTS:
        axes[name] = {0: "rows", 1: "steps"} if config.problem_type == "steps" else {0: "rows"}
    return axes


def _trace(
    module: _Exported, inputs: Mapping[str, Tensor], axes: Mapping[str, Any], path: Path
) -> None:
    """Export by tracing: the newer, dynamo-based exporter makes the number of steps a constant."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracer warnings; `_prove` finds real errors
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                str(path),
                input_names=list(inputs),
                output_names=list(OUTPUTS),
                dynamic_axes=axes,
                opset_version=_OPSET,
                dynamo=False,
            )
    except OSError:
        raise
    except Exception as error:
        raise ConfigError(
            "a part of the network cannot be expressed in ONNX. The built-in encoders and fusions "
            f"can be exported, so check your own encoders: {_first_line(error)}"
        ) from error


def _prove(network: FusionNetwork | LateNetwork, batch: Batch, path: Path) -> None:
    """Compare the file in onnxruntime with the network, on batches of several sizes."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(
            f"onnxruntime cannot load the exported file: {_first_line(error)}"
        ) from error
    for what, sized in _sizes(batch, network.config).items():
        with torch.no_grad():
            expected = network(sized)
        try:
            answer = run(session, to_inputs(network, sized))["logits"]
        except Exception as error:
            raise ConfigError(f"the exported file fails on {what}: {_first_line(error)}") from error
        if network.config.problem_type == "steps":
            expected, answer = expected[sized["steps"]], answer[sized["steps"]]
        bound = tolerance(network, sized)
        worst = float((answer - expected).abs().max())
        if not worst <= bound:
            raise ConfigError(
                f"the exported file differs from the network on {what}: a logit is off by "
                f"{worst:.2g}, but rounding explains at most {bound:.2g}. The file was removed"
            )


def tolerance(network: FusionNetwork | LateNetwork, batch: Batch) -> float:
    """Bound the difference of two float32 evaluations of a logit due to rounding.

    Each output of a layer has one rounding per term of its sum, and some for its activation. A
    recurrence accumulates those of all steps, assuming that states neither vanish nor explode.
    Errors reach a logit through the readouts, amplified by at most their |W|. A readout of n-grams
    has a rounding per n-gram, each at most that of the sum of absolute values.
    """
    lengths = {name: value.shape[1] for name, value in batch.items() if value.dim() > 1}
    steps = max([1, *(size for name, size in lengths.items() if not name.endswith(_NGRAMS))])
    roundings = 0
    for name, weight in network.named_parameters():
        if weight.dim() < 2 or name.endswith("_ngrams.weight"):
            continue
        terms = weight[0].numel() + 9  # 8 for an activation, 1 for a bias
        roundings += terms * (steps if "weight_hh" in name else 1)
    amplified = added = 0.0
    for each in network.modules():
        if not isinstance(each, FusionNetwork):
            continue
        layers: dict[str, nn.Module] = {"": each.head.readout, **each.readouts}
        for share, (name, layer) in zip(each.mixture.tolist(), layers.items(), strict=True):
            if isinstance(layer, NgramReadout):
                added += share * (lengths[name] + 9) ** 0.5 * _largest(layer, name, batch)
            elif isinstance(layer, nn.Linear):
                amplified += share * float(layer.weight.detach().abs().sum(1).max())
    error = roundings**0.5 * max(1.0, amplified) + added
    return 2 * CONFIDENCE * error * UNIT_ROUNDOFF[torch.float32]


def _largest(layer: NgramReadout, name: str, batch: Batch) -> float:
    """Return the largest sum of the absolute values of a row's weighted n-grams."""
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.abs_()
        weights = batch[name.replace("_ngrams", "_ngram_weights")]
        return float(layer(batch[name], weights).max())


def _sizes(batch: Batch, config: ModelConfig) -> dict[str, Batch]:
    """Return the batch, one row of it, and all rows twice, in another order and twice as long.

    A pretrained encoder of texts limits their length.
    """
    names = config.modalities
    rows = len(batch[names[0]])
    longer = select_rows(batch, [*reversed(range(rows)), *range(rows)])
    for name in names:
        if modality_of(name) in _LENGTHS:
            pretrained = config.pretrained_of(config.encoder_of(name))
            text = pretrained and pretrained.preprocessing.text
            length = 2 * longer[name].shape[1]
            length = min(length, text.max_tokens) if text else length
            longer[name] = torch.cat([longer[name], longer[name]], dim=1)[:, :length]
            longer[f"{name}_lengths"] = (2 * longer[f"{name}_lengths"] - 1).clamp_max(length)
        for key in (name + ending for ending in _NGRAMS):
            if key in longer:
                longer[key] = torch.cat([longer[key], longer[key]], dim=1)
    if "steps" in longer:
        counts = 2 * longer["steps"].sum(1) - 1
        longer["steps"] = torch.arange(2 * longer["steps"].shape[1]) < counts[:, None]
        for name in of_modality(names, "image"):
            longer[name] = torch.cat([longer[name], longer[name]], dim=1)
    return {
        f"the batch of {plural(rows, 'row')}": batch,
        "one row": select_rows(batch, [rows - 1]),
        f"{2 * rows} rows, longer": longer,
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
