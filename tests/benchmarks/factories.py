"""Records with invented measurements."""

from typing import Any

from benchmarks.report import records
from benchmarks.roofline import gpu
from benchmarks.runner import CaseResult
from benchmarks.shapes import Case, Shape
from benchmarks.timing import Times

CASE = Case("overview", "layer", Shape(100, 8, 64, 64), "float32", "inference")
H200 = gpu.GPUS["H200"]


def found(ours: float = 1.0, theirs: float = 4.0, case: Case = CASE) -> CaseResult:
    """Return three turns of each provider, with the middle one slow for both."""
    times = {name: Times((ms, 3 * ms, ms)) for name, ms in (("fastrnn", ours), ("nn.RNN", theirs))}
    return CaseResult(case, times=times)


def record(*rows: records.Row, **machine: Any) -> records.Record:
    described = {
        "device": "cpu",
        "cpu": "Some(R) CPU X-1 Processor @ 2.0GHz",
        "instruction_set": "avx2",
        "threads": 2,
        "cores": "2",
        "caches": {"L1": "32K"},
        "torch": "2.13.0",
        "onnxruntime": None,
        "commit": "abc1234",
        "dirty": False,
        "date": "2030-01-02T03:04+00:00",
        **machine,
    }
    return {
        "format": 1,
        "machine": described,
        "selection": {"shapes": "full", "peers": "all", "budget_s": 1, "complete": True},
        "absent": {},
        "calibration": {"measured": {}, "errors": []},
        "rows": list(rows),
    }


def full(ours: float = 1.0) -> records.Record:
    """A record with at least two shapes in every group that a figure shows."""
    made = []
    for step, cost in (("inference", 1.0), ("training", 3.0)):
        for group, shapes in {
            "overview": (Shape(100, 8, 64, 64), Shape(1000, 1, 64, 64)),
            "grid": tuple(Shape(50, B, H, H) for B in (1, 2) for H in (16, 32, 64)),
            "length": (Shape(128, 8, 64, 64), Shape(512, 8, 64, 64)),
            "width": tuple(Shape(100, B, H, H) for B in (1, 32) for H in (16, 32)),
        }.items():
            for index, shape in enumerate(shapes):
                scope = "recurrence" if group == "width" else "layer"
                case = Case(group, scope, shape, "float32", step)
                mine = ours * cost * (1 + index)
                made.append(records.row(found(mine, 2.0 / (1 + index) * mine, case), H200))
                if group == "length":
                    mib = {"fastrnn": 1.0 + index, "nn.RNN": 4.0 + index}
                    made.append(records.row(CaseResult(case, mib=mib)))
    return record(*made)
