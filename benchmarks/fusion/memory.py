"""Measure the start-up time and the peak memory of a fit over a large table of files.

    python -m benchmarks.fusion.memory --rows 200000

writes a table of images and texts (table.py), trains a small network on it for an epoch, and prints
the seconds and the memory at each stage.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from . import table

MODEL = {"conv": (8, 16), "grid": 2, "width": 32, "hidden": 32}


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--data", type=Path, help="folder of an existing table, or of a new one")
    parser.add_argument("--cache", choices=("memory", "disk", "none"), default="memory")
    parser.add_argument("--cache-size", type=int, default=128, help="MB")
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.data or Path(temporary) / "data"
        manifest = folder / "manifest.csv"
        if not manifest.is_file():
            table.write(folder, arguments.rows)
            print(f"wrote {arguments.rows:,} rows", flush=True)
        measure(manifest, Path(temporary) / "run", arguments)


def measure(manifest: Path, output_dir: Path, arguments: argparse.Namespace) -> None:
    """Train on a manifest, and print the time and the peak memory at each stage."""
    start = time.perf_counter()

    def stage(name: str) -> None:
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(f"{name:<12} {seconds:7.1f} s {peak:7.0f} MB", flush=True)

    from rich.console import Console

    from fastrnn.fusion import FitConfig, LoaderConfig, TrainConfig, fit, read_manifest
    from fastrnn.fusion.training import trainer

    stage("imported")
    first = trainer.Trainer._train_step

    def step(self: trainer.Trainer, *given: object) -> None:
        first(self, *given)  # type: ignore[arg-type]
        if self.epoch == 1 and self.step == 0:
            stage("first step")

    trainer.Trainer._train_step = step  # type: ignore[assignment, method-assign]
    rows = read_manifest(manifest)
    stage("read")
    loading = LoaderConfig(
        num_workers=arguments.num_workers,
        cache=arguments.cache,
        cache_size=arguments.cache_size,
    )
    training = TrainConfig(epochs=arguments.epochs, batch_size=128)
    config = FitConfig(model=MODEL, train=training, loading=loading, baselines=False)
    fit(rows, output_dir, config, console=Console())
    stage("trained")
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    if arguments.num_workers:
        print(f"largest worker {workers:.0f} MB")


if __name__ == "__main__":
    main()
