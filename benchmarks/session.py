"""The state of one run of pytest: its cases and providers, their results, and the record of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from . import baselines, environment, memory, runner
from .baselines import Provider
from .report import records
from .roofline import cpu, gpu, gpu_calibration
from .roofline.model import Machine
from .runner import CaseResult
from .shapes import GROUPS, Case, select

#: Seconds for the calibration of a GPU.
CALIBRATION_SECONDS = 120

#: Seconds after which a CPU is calibrated again: other processes may share its caches and clock.
CALIBRATION_VALID = 300


class Session:
    """The cases of a run, the providers that compute them, and the results.

    Args:
        shapes, level, device, budget, threads: as the options of `pytest benchmarks --help`.

    Raises:
        ValueError: there are no shapes of such a name.
    """

    def __init__(
        self, shapes: str, level: str, device: str | None, budget: float, threads: int | None
    ) -> None:
        self.shapes, self.level, self.budget = shapes, level, budget
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if threads:
            torch.set_num_threads(threads)
        self.cases = select(shapes, self.device)
        self.unavailable: dict[str, str] = {}
        #: By the quantity ("time", "memory") and the case: the providers that support it, those of
        #: them that were selected, and the results.
        self.supported: dict[tuple[str, Case], list[Provider]] = {}
        self.selected: dict[tuple[str, Case], list[Provider]] = {}
        self.results: dict[tuple[str, Case], CaseResult] = {}
        self.environment: dict[str, Any] = {}
        self.calibration: dict[str, Any] = {}
        self._machine: Machine | None = None
        self._calibrated_at = float("-inf")
        self._process: memory.Process | None = None

    def providers(self, quantity: str, case: Case) -> list[Provider]:
        """The providers that support a case here."""
        if quantity == "memory" and memory.unavailable_reason(self.device):
            self.unavailable["peak memory"] = memory.unavailable_reason(self.device) or ""
            return []
        level = min(GROUPS[case.group].baselines, self.level, key=baselines.LEVELS.index)
        available, unavailable = baselines.select(level, self.device)
        self.unavailable |= unavailable
        self.supported[quantity, case] = [
            provider
            for provider in available
            if not provider.unsupported_reason(case, self.device)
            and not (quantity == "memory" and provider.keeps_memory)
        ]
        return self.supported[quantity, case]

    def measure(self, quantity: str, case: Case) -> CaseResult:
        """The results of a case, which the first call measures."""
        if (quantity, case) not in self.results:
            self.environment = self.environment or environment.describe(self.device)
            providers = self.selected[quantity, case]
            if quantity == "time":
                self._calibrate()
                result = runner.measure_times(case, providers, self.device, self.budget)
            else:
                result = self.measure_memory(case, [provider.name for provider in providers])
            self.results[quantity, case] = result
        return self.results[quantity, case]

    def measure_memory(self, case: Case, names: list[str], steps: int | None = None) -> CaseResult:
        """The peak memory of a case, as `runner.measure_memory`."""
        if self.device != "cpu":
            return runner.measure_memory(case, names, self.device, steps)
        if self._process is None:
            self._process = memory.Process(torch.get_num_threads())
        result = self._process.call(runner.measure_memory, case, names, self.device, steps)
        assert isinstance(result, CaseResult)
        return result

    def close(self) -> None:
        """End the process that measured memory."""
        if self._process is not None:
            self._process.close()

    def _calibrate(self) -> None:
        """Measure the peak rates of this machine before anything is timed on it."""
        if self.device == "cpu":
            if time.monotonic() > self._calibrated_at + CALIBRATION_VALID:
                self._calibrate_cpu()
        elif not self.calibration:
            arch = gpu_calibration.architecture(torch.cuda.get_device_capability())
            deadline = time.time() + CALIBRATION_SECONDS
            self.calibration = gpu_calibration.calibrate(arch, deadline)
            known = gpu.machine(torch.cuda.get_device_name())
            self._machine = known and known.calibrated(self.calibration["measured"])

    def _calibrate_cpu(self) -> None:
        """Calibrate again, and keep the better value of every constant."""
        calibration = cpu.calibrate(torch.get_num_threads())
        self.calibration = cpu.best_of(self.calibration or calibration, calibration)
        self._machine = cpu.machine(self.calibration)
        self._calibrated_at = time.monotonic()

    def rows(self) -> list[records.Row]:
        return [records.row(result, self._machine) for result in self.results.values()]

    def record(self) -> records.Record:
        """The record of all results, of an interrupted run too."""
        if self.device == "cpu" and self.calibration.get("measured"):
            self._calibrate_cpu()
        supported = {key: providers for key, providers in self.supported.items() if providers}
        return {
            "format": records.FORMAT,
            "machine": self.environment,
            "selection": {
                "shapes": self.shapes,
                "peers": self.level,
                "budget_s": self.budget,
                "complete": self.selected == supported and set(self.results) == set(supported),
            },
            "absent": self.unavailable,
            "calibration": self.calibration,
            "rows": self.rows(),
        }


SESSION = pytest.StashKey[Session]()
