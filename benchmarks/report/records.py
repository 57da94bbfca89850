"""Records: the measurements of one run on one machine, in a JSON file that is never changed.

They are stored in benchmarks/results/MACHINE/, and named by date and commit. `python -m benchmarks
compare` compares two of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from .. import environment
from ..roofline import model
from ..runner import CaseResult
from ..shapes import Case, Shape

FORMAT = 1
RESULTS = Path(__file__).parents[1] / "results"

#: A time that grows by more than this factor is a regression.
ALLOWED = 1.05

#: MiB by which a peak may differ between two runs of the same code.
MEMORY_NOISE = 0.1

Row = dict[str, Any]
Record = dict[str, Any]


def is_fastrnn(provider: str) -> bool:
    """Whether a provider is fastrnn, by one of its backends."""
    return provider.partition(".")[0] == "fastrnn"


def row(result: CaseResult, machine: model.Machine | None = None) -> Row:
    """The results of a case, as a record stores them: times in milliseconds, to four digits.

    For each provider, `ms` holds the minimum, the 20th percentile, the median and the 80th
    percentile of its times. `over` holds, for each provider of ours, the median over the turns of
    this provider's time over ours.

    Args:
        machine: the peak rates of the machine, if known, for the lower bounds of the case.
    """
    case = result.case
    made: Row = {
        "group": case.group,
        "scope": case.scope,
        "work": case.shape.to_json(),
        "mode": case.mode,
        "step": case.step,
    }
    if result.mib:
        made |= {"mib": _rounded(result.mib), "least_mib": _rounded(model.results_mib(case))}
    if result.times:
        if machine is not None:
            made["floor"] = bounds(case, machine)
        mine = {name: times for name, times in result.times.items() if is_fastrnn(name)}
        made["times"] = {
            name: {
                "ms": _rounded(times.summary()),
                "turns": len(times.ms),
                "over": _rounded({other: times.over(t) for other, t in mine.items()}),
            }
            for name, times in result.times.items()
        }
    if result.wrong:
        made["wrong"] = result.wrong
    if result.too_long:
        made["too_long_s"] = _rounded(result.too_long)
    return made


def bounds(case: Case, machine: model.Machine) -> dict[str, float]:
    """Return the entry `floor` of a row: the lower bounds on the time of its case, in ms."""
    return _rounded(model.bounds(case, machine)._asdict())


def case(row: Row) -> Case:
    """Return the case of a row."""
    return Case(row["group"], row["scope"], Shape(**row["work"]), row["mode"], row["step"])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return value


def title(record: Record) -> str:
    """The machine of a record, as the headings of the pages name it."""
    what = record["machine"]
    if what["device"] == "cuda":
        return what["gpu"]
    threads = what["threads"]
    return f"{what['cpu']}, {what['instruction_set']}, {threads} thread{'s' if threads > 1 else ''}"


def torch_version(record: Record) -> str:
    """The version of torch without its build, such as "+cpu"."""
    return record["machine"]["torch"].partition("+")[0]


def key(row: Row) -> tuple[str, ...]:
    """Identify the measurement of a row; the key is the same in every record."""
    what = "mib" if "mib" in row else "times"
    return (row["scope"], json.dumps(row["work"], sort_keys=True), row["mode"], row["step"], what)


def write(record: Record, folder: Path = RESULTS) -> Path:
    """Write a new record, with one line for each row, and return its path.

    An existing file is never overwritten: a number is added to the name.

    Raises:
        ValueError: it is not a record.
        FileExistsError: a file holds the same record.
    """
    _check(record)
    first = path = environment.path(folder, record["machine"], record["selection"]["shapes"])
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in count(2):
        if not path.exists():
            break
        if read(path) == record:
            raise FileExistsError(f"{path} already holds this record")
        path = first.with_stem(f"{first.stem}-{number}")
    head = json.dumps({k: v for k, v in record.items() if k != "rows"}, indent=1)
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in record["rows"])
    with path.open("x") as file:
        file.write(f'{head[:-2]},\n "rows": [\n{rows}\n]}}\n')
    return path


def read(path: Path) -> Record:
    """Read a record.

    Raises:
        ValueError: the file is not a record, or has another format.
    """
    try:
        # The CPU backend was called "cpp" in the first records.
        record = json.loads(path.read_text().replace('"fastrnn.cpp"', '"fastrnn.cpu"'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a record: {error}") from None
    _check(record, path)
    return record


def _check(record: Any, path: Path | None = None) -> None:
    where = f"{path}: " if path else ""
    if not isinstance(record, dict) or not {"machine", "selection", "rows"} <= set(record):
        raise ValueError(f"{where}this is not a record of benchmarks")
    if record.get("format") != FORMAT:
        raise ValueError(f"{where}format {record.get('format')} is not supported, only {FORMAT}")


def paths(folder: Path = RESULTS) -> dict[str, list[Path]]:
    """Return the paths of the records of each machine, oldest first."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*/*.json")):
        if not path.stem.endswith("-check"):
            found.setdefault(path.parent.name, []).append(path)
    return found


class Change(NamedTuple):
    """The change of one of our times or peaks between two records."""

    what: str
    provider: str
    factor: float  #: the newer value over the older
    spread: float  #: the largest ratio of p80 to p20 in the times behind the factor

    @property
    def is_regression(self) -> bool:
        return self.factor > ALLOWED

    @property
    def is_certain(self) -> bool:
        """Whether the change exceeds the variation between turns."""
        return self.factor > self.spread


def compare(old: Record, new: Record) -> list[Change]:
    """Return the changes of our times and peaks, the worst first.

    Times are relative to those of torch's layer in the same run if both records have it, because
    machine noise affects both equally.
    """
    before = {key(row): row for row in old["rows"]}
    pairs = ((before[key(row)], row) for row in new["rows"] if key(row) in before)
    changes = [change for a, b in pairs for change in _changes(a, b)]
    return sorted(changes, key=lambda change: -change.factor)


def _changes(old: Row, new: Row) -> Iterator[Change]:
    what = f"{new['scope']} {case(new)}"
    for name in _shared(old.get("mib", {}), new.get("mib", {})):
        factor = new["mib"][name] / old["mib"][name]
        yield Change(f"{what} memory", name, factor, MEMORY_NOISE / old["mib"][name] + 1)
    a, b = old.get("times", {}), new.get("times", {})
    torch_layer = Shape(**new["work"]).of_cell.torch_layer
    for name in _shared(a, b):
        if torch_layer in a and torch_layer in b:
            factor = a[torch_layer]["over"][name] / b[torch_layer]["over"][name]
            used = [times[which] for times in (a, b) for which in (name, torch_layer)]
        else:
            factor = b[name]["ms"][2] / a[name]["ms"][2]
            used = [a[name], b[name]]
        spread = max(times["ms"][3] / times["ms"][1] for times in used)
        yield Change(what, name, factor, spread)


def _shared(old: Iterable[str], new: Iterable[str]) -> list[str]:
    return [name for name in new if name in old and is_fastrnn(name)]
