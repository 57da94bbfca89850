"""Join the evaluations of several runs of one table: the mean score of each model.

    python -m examples.public_data.summary runs/stamps-* --picture stamps.png

The runs have different seeds, so different splits. One split of a small table says little.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastrnn.fusion import files
from fastrnn.fusion.errors import DataError, FusionError, reason
from fastrnn.fusion.evaluation.evaluator import EVALUATION
from fastrnn.fusion.plots.metrics import models

Scores = dict[str, list[float]]  # name -> the score in each run


def read(folders: Sequence[Path]) -> list[Mapping[str, Any]]:
    """Read the evaluation.json of runs.

    Raises:
        FusionError: a run has not been evaluated, its evaluation is damaged, or the runs do not
            have the same models and score.
    """
    found = []
    for folder in folders:
        path = folder / EVALUATION
        if not path.is_file():
            raise DataError(f"{path} does not exist: run `fastrnn evaluate {folder}` first")
        found.append(files.read_json(path))
    kinds = {(each["score"], *each["models"]) for each in found}
    if len(kinds) > 1:
        raise DataError("the runs do not have the same models and score; name runs of one table")
    return found


def scores(runs: Sequence[Mapping[str, Any]]) -> Scores:
    """Return the score of each model, the main one first and the others from the best."""
    name, main = runs[0]["score"], runs[0]["main"]
    found = {
        model: [run["models"][model]["scores"][name]["value"] for run in runs]
        for model in runs[0]["models"]
    }
    ranked = sorted(found, key=lambda model: (model != main, -_mean(found[model])))
    return {model: found[model] for model in ranked}


def changed(runs: Sequence[Mapping[str, Any]]) -> Scores:
    """Return the score of the main model for each change of its inputs that has no strength."""
    found: Scores = {}
    for run in runs:
        for each in run["robustness"]:
            if each["strength"] is None:
                found.setdefault(f"{each['modality']} {each['change']}", []).append(each["score"])
    return found


def table(found: Scores, unchanged: Sequence[float], header: str, score: str) -> str:
    """Return the means, ranges and mean differences from a score as a Markdown table."""
    rows = [
        [header, f"mean {score}", "range", "difference"],
        ["---", "--:", "--:", "--:"],
    ]
    rows += [
        [
            name,
            f"{_mean(values):.3f}",
            f"{min(values):.3f}-{max(values):.3f}",
            f"{_mean(values) - _mean(unchanged):+.3f}",
        ]
        for name, values in found.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _mean(values: Sequence[float | None]) -> float:
    known = [each for each in values if each is not None]
    if len(known) < len(values):
        raise DataError("a score is undefined in one of the runs; leave that run out")
    return sum(known) / len(known)


def _summarise(folders: Sequence[Path], picture: Path | None) -> None:
    runs = read(folders)
    score, found = runs[0]["score"], scores(runs)
    unchanged = next(iter(found.values()))
    print(table(found, unchanged, f"model ({len(runs)} splits)", score))
    print()
    print(table(changed(runs), unchanged, f"change of the inputs of {runs[0]['main']}", score))
    if picture:
        bars = {
            name: {"value": _mean(values), "low": min(values), "high": max(values)}
            for name, values in found.items()
        }
        models(picture, bars, f"{score}; bar: mean, line: range of {len(runs)} splits")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and return the exit code; an error of the user is printed in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.public_data.summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="FOLDER", help="of an evaluated run")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="plot the means and ranges")
    given = parser.parse_args(arguments)
    try:
        _summarise(given.runs, given.picture)
    except (FusionError, OSError) as error:
        said = reason(error) if isinstance(error, OSError) else error
        print(f"error: {said}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
