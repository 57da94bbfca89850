"""Train and predict on a Ray cluster: the ordinary fit in workers, and a callable for Ray Data.

Needs the extra: pip install 'fastrnn[fusion,ray]'.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import ray.train
from ray.train.torch import TorchTrainer

from .api import FusionModel
from .config.schema import FitConfig
from .data.manifest import read_manifest
from .data.storage import as_path
from .errors import FusionError
from .training.run import fit, keep_earlier_run


def fit_with_ray(
    manifest: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    config: FitConfig | None = None,
    *,
    num_workers: int = 2,
    use_gpu: bool = False,
    resume: bool = False,
    table: Mapping[str, Any] | None = None,
    run_config: ray.train.RunConfig | None = None,
) -> Path:
    """Train on a manifest with Ray Train, as `fit` does under torchrun.

    Ray starts the workers and their process group. If it restarts them, for example because a
    machine is lost (`RunConfig(failure_config=FailureConfig(max_failures=3))`), training resumes
    from the last checkpoint in `output_dir`. After each epoch, the metrics are reported to Ray.

    Args:
        manifest: a file that every worker can read: on a shared disk, or a URL.
        output_dir: the run's folder, on a disk that all workers share.
        config: all options.
        num_workers: number of training processes. (`config.loading.num_workers` is the number of
            processes that decode files, for each of them.)
        use_gpu: whether each worker has a GPU.
        resume: continue an interrupted run; without it, the folder must not contain one.
        table: keyword arguments of `read_manifest`, such as columns, root or problem_type.
        run_config: Ray's own options.

    Returns:
        The run's folder, for `load` or `FusionModel.from_pretrained`.

    Raises:
        FusionError: as for `fit`.
        ray.train.TrainingFailedError: a worker failed for another reason.
    """
    folder = Path(output_dir).resolve()
    if not resume:
        keep_earlier_run(folder)
    call = {
        "manifest": str(as_path(manifest).resolve()),
        "output_dir": str(folder),
        "config": config,
        "table": dict(table or {}),
    }
    trainer = TorchTrainer(
        _work,
        train_loop_config=call,
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=run_config,
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        for each in getattr(error, "worker_failures", {}).values():
            if isinstance(each, FusionError):
                raise each from None
        raise
    return folder


def _work(call: Mapping[str, Any]) -> None:
    """Train in one worker. Accelerate finds the process group that Ray has set up."""
    config = call["config"] or FitConfig()
    manifest = read_manifest(
        call["manifest"], **{"on_bad_row": config.loading.on_bad_row, **call["table"]}
    )
    fit(manifest, call["output_dir"], config, resume=True, callbacks=[_Report()])


class _Report:
    """Reports the metrics of each epoch to Ray, which waits for all workers."""

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> None:
        ray.train.report(dict(metrics))


class RayPredictor:
    """Predicts batches of a `ray.data.Dataset`. Each actor loads the model once.

        rows = ray.data.read_parquet("s3://bucket/new.parquet")
        rows.map_batches(
            RayPredictor,
            fn_constructor_kwargs={"model": "/shared/runs/pets", "root": "s3://bucket"},
            batch_format="pandas",
            compute=ray.data.ActorPoolStrategy(size=2),
        )

    Args:
        model: the folder of a run or of a model, or OWNER/NAME on the Hub.
        how: keyword arguments of `FusionModel.predict_table`. Paths are relative to `root`, which
            every actor must be able to read.

    Raises:
        ConfigError: there is no such model.
    """

    def __init__(self, model: str | os.PathLike[str], **how: Any) -> None:
        self._model = FusionModel.from_pretrained(str(model))
        self._how = how

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        """Return the batch with the columns of `predict_table`, each named predicted_NAME.

        Raises:
            FusionError: as `predict_table`.
        """
        return batch.join(self._model.predict_table(batch, **self._how).add_prefix("predicted_"))
