"""The networks of a run, trained one after another: the model and its baselines.

The score of a fused model alone says little: one modality may suffice, or no recurrence may be
needed. The baselines, trained on the same rows, are each input alone, late fusion, and the
fusion without its recurrent layer, and those of classical.py.

The weights of each network are saved as soon as it is trained. An interrupted run continues from
its checkpoint, with the network that was in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from torch import nn

from .. import checkpoint
from ..config.schema import FitConfig, ModelConfig, RunConfig
from ..data.dataset import FusionDataset
from ..data.manifest import Manifest
from ..data.processor import Processor
from ..inference import outputs
from ..inference.loop import InferenceConfig, predictions
from ..inference.outputs import Baseline
from ..models.network import single
from ..strings import plural
from ..tasks.curves import safe_threshold
from . import state
from .callbacks import Callback
from .classical import train_classical
from .devices import several_hosts
from .environment import Environment, Start
from .feature_cache import with_features
from .loggers import Log
from .loggers import read as read_metrics
from .meter import Score
from .result import Scores, Trained
from .state import State
from .trainer import train


@dataclass(frozen=True)
class Run:
    """The result of a fit.

    Attributes:
        parts: split name -> the numbers of its rows in the manifest, also of those left out.
        datasets: split name -> its rows.
        trained: the networks; the first is the main one.
        cross_validation: the content of cross_validation.json, if the run has folds.
        classical: the baselines of scikit-learn.
    """

    folder: Path
    config: RunConfig
    processor: Processor
    parts: Mapping[str, list[int]]
    datasets: Mapping[str, FusionDataset]
    trained: list[Trained]
    cross_validation: Mapping[str, Any] | None = None
    classical: list[Baseline] = field(default_factory=list)

    @property
    def held_out(self) -> FusionDataset:
        """The rows to evaluate on: test, else val."""
        return self.datasets.get("test", self.datasets["val"])


def configure(manifest: Manifest, processor: Processor, options: Mapping[str, Any]) -> ModelConfig:
    """Create the model's configuration from the manifest, the processor and the options."""
    return ModelConfig(
        modalities=manifest.modalities,
        problem_type=manifest.problem_type,
        outputs=processor.task.num_outputs,
        stream=manifest.stream,
        image_size=processor.config.image_size,
        image_channels=processor.config.image_channels,
        mels=processor.config.mels,
        vocabulary=processor.vocabulary,
        ngrams=processor.ngrams,
        variables=processor.variables,
        series_variables=processor.series_variables,
        numbers=processor.numbers,
        categories=processor.categories,
        missing=manifest.missing,
        **{"fusion": "aligned" if manifest.stream else "tokens", **options},
    )


def variants(model: ModelConfig, baselines: bool = True) -> dict[str, ModelConfig]:
    """Return the model and its baselines, name -> configuration."""
    several = len(model.modalities) > 1
    result = {"fusion" if several else f"{model.modalities[0]} only": model}
    if not baselines:
        return result
    if several:
        result |= {f"{name} only": single(model, name) for name in reversed(model.modalities)}
        if model.fusion != "late":
            result["late"] = replace(model, fusion="late", share=())
        if model.fusion == "tokens":
            result["concat"] = replace(model, fusion="concat", unimodal_heads=False, dropout=0.0)
    if model.cell != "none":
        result["no recurrence"] = replace(model, cell="none")
    return result


def train_all(
    run: Run,
    config: FitConfig,
    given: checkpoint.Weights | None,
    accelerator: Accelerator,
    console: Console,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train what is not finished yet, and add it to `run.trained` and `run.classical` in order."""
    datasets = _train_networks(run, config, given, accelerator, console, callbacks)
    main = accelerator.is_main_process
    if main and config.baselines:
        workers, device = config.loading.num_workers, accelerator.device
        train_classical(run.folder, datasets, run.config, workers, device, console)
    accelerator.wait_for_everyone()
    run.classical.extend(outputs.load(run.folder))
    if main:
        state.clear(run.folder)
    accelerator.wait_for_everyone()


def _train_networks(
    run: Run,
    config: FitConfig,
    given: checkpoint.Weights | None,
    accelerator: Accelerator,
    console: Console,
    callbacks: Sequence[Callback],
) -> Mapping[str, FusionDataset]:
    """Train the networks; return the datasets, perhaps with the features of frozen encoders."""
    folder, main = run.folder, accelerator.is_main_process
    workers = config.loading.num_workers
    before = state.load(folder) or State()
    records = read_metrics(folder / checkpoint.METRICS, before.metrics)
    accelerator.wait_for_everyone()  # all processes read the metrics before one truncates them
    if config.report_to:
        accelerator.init_trackers(folder.resolve().name, _flat(asdict(run.config)))
    file, trackers = folder / checkpoint.METRICS, accelerator.trackers
    with Log(file, console, size=before.metrics, main=main, trackers=trackers) as log:
        datasets: Mapping[str, FusionDataset] = run.datasets
        if given is None:  # other weights than the pretrained ones
            own = None if several_hosts() else folder  # the folder may be on a slow shared disk
            datasets = with_features(datasets, run.config, accelerator, own, workers)
        environment = Environment(datasets, accelerator, log, workers, callbacks)
        for name, model in variants(run.config.model, config.baselines).items():
            if name in before.finished:
                run.trained.append(finished(folder, name, records, accelerator))
                continue
            done = tuple(each.name for each in run.trained)

            def save(now: State, done: tuple[str, ...] = done) -> None:
                if main:
                    state.save(folder, replace(now, finished=done))

            start, training = Start(), run.config.train
            if before.model == name:
                start = Start(state=before, epochs=_scores(name, records)[0])
            if not done:
                start = replace(start, given=given)
            else:
                training = replace(training, freeze=())
            result = train(name, model, training, replace(environment, save=save), start)
            if not done:
                result.threshold = _tuned(result.model, datasets["val"], environment)
            run.trained.append(result)
            if main:
                _save(run, model, result)
            save(State(metrics=log.size()), (*done, name))
    return datasets


def _save(run: Run, model: ModelConfig, result: Trained) -> None:
    best = checkpoint.weights(result.model)
    checkpoint.save_network(run.folder, result.name, model, best, result.last)
    if result.threshold is not None:
        config = replace(run.config, threshold=result.threshold)
        checkpoint.save(run.folder, config, result.model, run.processor)


def _tuned(model: nn.Module, val: FusionDataset, environment: Environment) -> float:
    """Return the threshold of the main model's predictions; see curves.safe_threshold."""
    if not val.processor.task.has_threshold:
        return 0.5
    found = predictions(model, val, InferenceConfig(num_workers=environment.num_workers))
    threshold = safe_threshold(found.output, found.truth)
    if threshold != 0.5:
        labels = val.processor.task.labels
        environment.log.say(
            f"predict will choose {labels[1]} above {threshold:.3f}, where the balanced accuracy "
            f"on {plural(len(val), 'val row')} is highest"
        )
    return threshold


def finished(
    folder: Path, name: str, records: Iterable[Mapping[str, Any]], accelerator: Accelerator
) -> Trained:
    """Return a network that an interrupted run had finished."""
    epochs, test, seconds = _scores(name, records)
    model = checkpoint.load_network(folder, name).to(accelerator.device)
    result = Trained(name, model, epochs, seconds=seconds)
    result.final["val"] = epochs[result.best - 1]["val"]
    if test is not None:
        result.final["test"] = test
    return result


def _scores(
    name: str, records: Iterable[Mapping[str, Any]]
) -> tuple[list[Scores], Score | None, float]:
    """Return a network's metrics: its epochs, its score on test rows, its seconds."""
    epochs: list[Scores] = []
    test, seconds = None, 0.0
    for each in records:
        if each["model"] != name:
            continue
        rest = set(each) - {"model", "epoch", "split", "loss", "seconds"}
        score = Score(each["loss"], each[rest.pop()])
        seconds = each["seconds"]
        if each["split"] == "test":
            test = score
        else:
            if each["split"] == "train":
                epochs.append({})
            epochs[-1][each["split"]] = score
    return epochs, test, seconds


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str]:
    """Return nested options as "section.name" -> a value that every tracker accepts."""
    found: dict[str, int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, (int, float)) else str(value)
    return found
