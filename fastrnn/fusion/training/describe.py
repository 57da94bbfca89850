"""Print what a fit inferred from a table, so that a wrong guess is noticed before training."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from ..data.bad_rows import SKIPPED
from ..data.dataset import FusionDataset
from ..data.groups import crossing_contents
from ..data.manifest import Manifest, described_columns
from ..strings import plural


def describe(manifest: Manifest, console: Console) -> None:
    """Print the columns and the problem type."""
    say = console.out  # without markup, which a path could contain
    rows = plural(len(manifest) + len(manifest.skipped), "row")
    say(f"{manifest.path}: {rows}{' (sequences of steps)' if manifest.stream else ''}")
    for line in described_columns(manifest):
        say(f"  {line}")
    say(f"  labels: {manifest.problem_type}")
    for warning in manifest.warnings:
        say(f"  warning: {warning}")


def describe_split(
    manifest: Manifest, datasets: Mapping[str, FusionDataset], seed: int, console: Console
) -> None:
    """Print the labels and the sizes of the splits, without the rows that were left out."""
    say = console.out
    rows = [row for each in datasets.values() for row in each.rows.tolist()]
    say(f"  {manifest.problem_type} labels: " + manifest.task.describe(manifest.labels(rows)))
    sizes = ", ".join(f"{len(each)} {name}" for name, each in datasets.items())
    how = (
        f"from column {manifest.columns['split']}"
        if "split" in manifest.columns
        else f"random with seed {seed}, stratified by label"
    )
    say(f"  split: {sizes} ({how})")
    if "split" not in manifest.columns:  # otherwise the manifest already has this warning
        splits = {row: name for name, each in datasets.items() for row in each.rows.tolist()}
        for warning in crossing_contents(manifest.rows, splits):
            say(f"  warning: {warning}")
    skipped = left_out(manifest, datasets)
    if skipped:
        say(f"  {plural(len(skipped), 'row')} skipped, see {SKIPPED}")
    truncated = sum(each.truncated for each in datasets.values())
    if truncated:
        limit = datasets["train"].processor.config.max_tokens
        say(f"  {plural(truncated, 'text')} truncated to {plural(limit, 'token')}")


def left_out(manifest: Manifest, datasets: Mapping[str, FusionDataset]) -> list[dict[str, str]]:
    """List the rows that cannot be used: where, the error, and the split if it is known."""
    found = [{"where": where, "error": error} for where, error in manifest.skipped]
    for name, each in datasets.items():
        found += [{"where": a, "error": b, "split": name} for a, b in each.skipped]
    return found
