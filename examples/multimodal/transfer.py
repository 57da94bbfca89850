"""Transfer from a model of images and sentences to a model of speech and sentences.

Claim check is first learned from images, where there are many rows. Then its sentence encoder,
fusion and readout are frozen, and an audio encoder for spoken digits replaces the image encoder.
Only the audio encoder is trained, on few rows. The baseline is the same network trained from
scratch on the same rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fastrnn.fusion import Run, fit, read_manifest

from .common import Call, grid, make_room
from .datasets import claim_check, spoken_claim
from .replace_modality import replace_modality

FROZEN = ("text", "fusion", "head")
WRITTEN = 16  # times as many rows of images as of speech
MORE = 4  # times as many rows of speech, to measure their benefit


def run_transfer(call: Call) -> Run:
    """Train on images, then on speech with and without transfer; show a table.

    The returned run, saved in the folder itself, is the transfer on the fewest rows.
    """
    make_room(call.folder)
    rows = call.rows or spoken_claim.ROWS
    few, many = rows["train"], MORE * rows["train"]
    tables = {
        "manifest.csv": (few, spoken_claim.SENTENCES),
        "more.csv": (many, spoken_claim.SENTENCES),
        "all-sentences.csv": (few, None),
    }
    manifests = spoken_claim.write_tables(call.folder / "data", call.seed, rows, tables)
    carried = learn_from_pictures(call, few)
    cells: dict[str, list[str]] = {}
    first = None
    for manifest, (count, sentences) in zip(manifests, tables.values(), strict=True):
        stem = manifest.stem
        kept = run_on(call, manifest, call.folder if first is None else call.folder / stem, carried)
        scratch = run_on(call, manifest, call.folder / f"{stem}-from-scratch", None)
        first = first or kept
        number = sentences or len(claim_check.sentences())
        both = [each.trained[0].test_score.score for each in (kept, scratch)]
        cells[f"{count:,} rows, {number} sentences"] = [f"{each:.3f}" for each in both]
    if first is None:
        raise ValueError("there is no table to train on")
    columns = ["transferred", "from scratch"]
    title = f"Accuracy on {len(first.held_out)} test rows, which use all sentences"
    call.console.print(grid(title, "trained on", columns, cells))
    return first


def learn_from_pictures(call: Call, few: int) -> Path:
    """Train claim check in folder/written; return the folder of that run, converted to audio."""
    folder = call.folder / "written"
    rows = (call.rows or spoken_claim.ROWS) | {"train": WRITTEN * few}
    (folder / "data").mkdir(parents=True)
    manifest = read_manifest(claim_check.write(folder / "data", call.seed, rows))
    training = replace(call.demo.config.train, seed=call.seed)
    config = replace(call.alone, train=training)
    run = fit(manifest, folder, config, console=call.console)
    call.console.print(f"Accuracy on images: {run.trained[0].test_score.score:.3f}")
    return replace_modality(
        folder, call.folder / "carried", "image", "audio", {"mels": config.data.mels}
    )


def run_on(call: Call, manifest: Path, folder: Path, carried: Path | None) -> Run:
    """Train on spoken claims, from the run `carried` or from scratch."""
    config = call.alone
    if carried is not None:
        training = replace(config.train, freeze=FROZEN)
        config = replace(config, train=training, init_from=str(carried))
    return fit(read_manifest(manifest), folder, config, console=call.console)
