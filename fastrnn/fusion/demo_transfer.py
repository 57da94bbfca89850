"""Transfer: what a model of pictures and sentences knows, for one of speech and sentences.

Claim check is learned from pictures, where rows are plenty. Then its sentence encoder, fusion and
readout are kept as they are, a new encoder hears spoken digits in the picture's place, and it alone
is trained, on few rows. The same network from scratch, on the same rows, is the comparison.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from . import experiment
from .demo_runs import Call, grid, make_room
from .experiment import Run
from .manifest import read_manifest
from .tasks import claim_check, spoken_claim
from .transplant import transplant

FROZEN = ("text", "fusion", "head")
WRITTEN = 16  # times as many rows of pictures as of speech
MORE = 4  # times as many rows, to see what they would be worth


def transfer(call: Call) -> Run:
    """Learn from pictures; then from speech, carrying over or not; show a table.

    The run that is left in the folder is the one that carried over, on the fewest rows.
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
        said = sentences or len(claim_check.sentences())
        both = [each.trained[0].judged.score for each in (kept, scratch)]
        cells[f"{count:,} rows, {said} of the sentences"] = [f"{each:.3f}" for each in both]
    if first is None:
        raise ValueError("there is no table to learn from")
    columns = ["carried over", "from scratch"]
    title = f"Accuracy on {len(first.examples['test'])} test rows, which have all the sentences"
    call.console.print(grid(title, "trained on", columns, cells))
    return first


def learn_from_pictures(call: Call, few: int) -> Path:
    """Train claim check in folder/written; returns that run, made ready for audio."""
    folder = call.folder / "written"
    rows = (call.rows or spoken_claim.ROWS) | {"train": WRITTEN * few}
    (folder / "data").mkdir(parents=True)
    manifest = read_manifest(claim_check.write(folder / "data", call.seed, rows))
    data, options = call.demo.data, call.demo.options
    training = replace(call.demo.training, seed=call.seed)
    run = experiment.fit(manifest, folder, data, training, options, False, call.console)
    call.console.print(f"learned from pictures: {run.trained[0].judged.score:.3f}")
    return transplant(
        folder, call.folder / "carried", "image", "audio", {"mels": call.demo.data.mels}
    )


def run_on(call: Call, manifest: Path, folder: Path, carried: Path | None) -> Run:
    """Train on spoken claims, from a run or from scratch."""
    training = replace(call.training, freeze=FROZEN if carried else ())
    return experiment.fit(
        read_manifest(manifest),
        folder,
        call.demo.data,
        training,
        call.demo.options,
        False,
        call.console,
        init_from=carried,
    )
