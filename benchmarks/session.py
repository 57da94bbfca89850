"""What one run of pytest measures, and on what; and the record that is made of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from . import machine, measure, memory, peers, records
from .measure import Found
from .providers import Provider
from .roofline import cpu, gpu, gpu_calibration
from .roofline.model import Machine
from .shapes import GROUPS, Case, select

#: Seconds of a GPU's calibration.
CALIBRATING = 120

#: Seconds after which a CPU is calibrated anew: others may share its caches and its clock.
VALID = 300


class Session:
    """The cases of a run, who is to compute them, and what was found.

    Args:
        shapes, level, device, budget, threads: as the options of `pytest benchmarks --help`.

    Raises:
        ValueError: no shapes have such a name.
    """

    def __init__(
        self, shapes: str, level: str, device: str | None, budget: float, threads: int | None
    ) -> None:
        self.shapes, self.level, self.budget = shapes, level, budget
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if threads:
            torch.set_num_threads(threads)
        self.cases = select(shapes, self.device)
        self.absent: dict[str, str] = {}
        #: Who can compute a case, by what is measured of it ("time", "memory"); of these, who is
        #: asked to; and what came of it.
        self.able: dict[tuple[str, Case], list[Provider]] = {}
        self.wanted: dict[tuple[str, Case], list[Provider]] = {}
        self.found: dict[tuple[str, Case], Found] = {}
        self.machine: dict[str, Any] = {}
        self.calibration: dict[str, Any] = {}
        self._rates: Machine | None = None
        self._calibrated = float("-inf")
        self._process: memory.Process | None = None

    def providers(self, what: str, case: Case) -> list[Provider]:
        """Who can compute a case here."""
        if what == "memory" and memory.unavailable(self.device):
            self.absent["peak memory"] = memory.unavailable(self.device) or ""
            return []
        level = min(GROUPS[case.group].peers, self.level, key=peers.LEVELS.index)
        present, absent = peers.providers(level, self.device)
        self.absent |= absent
        self.able[what, case] = [
            provider
            for provider in present
            if not provider.refuses(case, self.device)
            and not (what == "memory" and provider.keeps_memory)
        ]
        return self.able[what, case]

    def measured(self, what: str, case: Case) -> Found:
        """What came of a case, measured at the first call."""
        if (what, case) not in self.found:
            self.machine = self.machine or machine.describe(self.device)
            wanted = self.wanted[what, case]
            if what == "time":
                self._calibrate()
                found = measure.times(case, wanted, self.device, self.budget)
            else:
                found = self.weighed(case, [provider.name for provider in wanted])
            self.found[what, case] = found
        return self.found[what, case]

    def weighed(self, case: Case, names: list[str], steps: int | None = None) -> Found:
        """The peak memory of a case, by providers of these names; see `measure.memory`."""
        if self.device != "cpu":
            return measure.memory(case, names, self.device, steps)
        if self._process is None:
            self._process = memory.Process(torch.get_num_threads())
        found = self._process.call(measure.memory, case, names, self.device, steps)
        assert isinstance(found, Found)
        return found

    def close(self) -> None:
        """End the process that measured memory."""
        if self._process is not None:
            self._process.close()

    def _calibrate(self) -> None:
        """Find out what this machine can do at most, before anything is timed on it."""
        if self.device == "cpu":
            if time.monotonic() > self._calibrated + VALID:
                self._calibrate_cpu()
        elif not self.calibration:
            arch = gpu_calibration.architecture(torch.cuda.get_device_capability())
            deadline = time.time() + CALIBRATING
            self.calibration = gpu_calibration.calibration(arch, deadline)
            known = gpu.machine(torch.cuda.get_device_name())
            self._rates = known and known.calibrated(self.calibration["measured"])

    def _calibrate_cpu(self) -> None:
        """Once more, and keep the better of everything."""
        found = cpu.calibrate(torch.get_num_threads())
        self.calibration = cpu.best_of(self.calibration or found, found)
        self._rates = cpu.machine(self.calibration)
        self._calibrated = time.monotonic()

    def rows(self) -> list[records.Row]:
        return [records.row(found, self._rates) for found in self.found.values()]

    def record(self) -> records.Record:
        """What was found, though not all of what was wanted may have been."""
        if self.device == "cpu" and self.calibration.get("measured"):
            self._calibrate_cpu()
        able = {key: wanted for key, wanted in self.able.items() if wanted}
        return {
            "format": records.FORMAT,
            "machine": self.machine,
            "selection": {
                "shapes": self.shapes,
                "peers": self.level,
                "budget_s": self.budget,
                "complete": self.wanted == able and set(self.found) == set(able),
            },
            "absent": self.absent,
            "calibration": self.calibration,
            "rows": self.rows(),
        }


SESSION = pytest.StashKey[Session]()
