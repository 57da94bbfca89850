"""One run of `python -m benchmarks run`: its benchmarks, their results, and the record of it."""

from __future__ import annotations

import re
import time
from typing import Any

import torch

from . import baselines, environment, memory, runner
from .baselines import Provider
from .groups import GROUPS, select
from .report import records
from .roofline import cpu, gpu, gpu_calibration
from .roofline.model import Machine
from .runner import CaseResult
from .shapes import STEPS, Case

#: Seconds for the calibration of a GPU.
CALIBRATION_SECONDS = 120

#: Seconds after which a CPU is calibrated again: other processes may share its caches and clock.
CALIBRATION_VALID = 300

#: The order of the benchmarks in a run and of the rows in its record: scopes and quantities.
ORDER = (("layer", "time"), ("layer", "memory"), ("recurrence", "time"))


class Session:
    """The cases of a run, the providers that compute them, and the results.

    Args:
        shapes: comma-separated names of groups and selections.
        level: one of `baselines.LEVELS`, the most baselines to compare with.
        device: "cpu" or "cuda"; by default cuda if available.
        budget: seconds for each time measured.
        threads: for torch.set_num_threads; by default torch's own choice.
        pattern: a regular expression that selects benchmarks by their names.

    Raises:
        ValueError: a name of shapes is unknown, or the pattern is not a regular expression.
    """

    def __init__(
        self,
        shapes: str,
        level: str = "all",
        device: str | None = None,
        budget: float = 0.4,
        threads: int | None = None,
        pattern: str = "",
    ) -> None:
        self.shapes, self.level, self.budget = shapes, level, budget
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if threads:
            torch.set_num_threads(threads)
        #: By quantity ("time" or "memory") and case: the providers that support it, those that the
        #: pattern selects, and the results.
        self.supported: dict[tuple[str, Case], list[Provider]] = {}
        self.selected: dict[tuple[str, Case], list[Provider]] = {}
        self.results: dict[tuple[str, Case], CaseResult] = {}
        self.unavailable: dict[str, str] = {}
        self.environment: dict[str, Any] = {}
        self.calibration: dict[str, Any] = {}
        self._machine: Machine | None = None
        self._calibrated_at = float("-inf")
        self._process: memory.Process | None = None
        self._select(select(shapes, self.device), pattern)

    def _select(self, cases: list[Case], pattern: str) -> None:
        try:
            matches = re.compile(pattern).search
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        for scope, quantity in ORDER:
            for case in sorted(cases, key=lambda case: STEPS.index(case.step)):
                if case.scope != scope:
                    continue
                if supported := self._providers(quantity, case):
                    self.supported[quantity, case] = supported
                selected = [p for p in supported if matches(name(quantity, case, p))]
                if selected:
                    self.selected[quantity, case] = selected

    def _providers(self, quantity: str, case: Case) -> list[Provider]:
        """Return the providers for which a quantity of a case can be measured here."""
        if quantity == "memory":
            if not GROUPS[case.group].memory:
                return []
            if reason := memory.unavailable_reason(self.device):
                self.unavailable["peak memory"] = reason
                return []
        supporting, unavailable = baselines.select_for(case, self.level, self.device)
        self.unavailable |= unavailable
        return [p for p in supporting if not (quantity == "memory" and p.keeps_memory)]

    def measure(self, quantity: str, case: Case) -> CaseResult:
        """Measure a quantity of a case for all selected providers, and keep the results."""
        self.environment = self.environment or environment.describe(self.device)
        providers = self.selected[quantity, case]
        if quantity == "time":
            self._calibrate()
            result = runner.measure_times(case, providers, self.device, self.budget)
        else:
            result = self.measure_memory(case)
        self.results[quantity, case] = result
        return result

    def measure_memory(self, case: Case, steps: int | None = None) -> CaseResult:
        """Measure the peak memory of a case.

        Args:
            steps: replaces the number of steps of the case, to try the code.
        """
        names = [provider.name for provider in self.selected["memory", case]]
        if self.device != "cpu":
            return runner.measure_memory(case, names, self.device, steps)
        if self._process is None:
            self._process = memory.Process(torch.get_num_threads())
        result = self._process.call(runner.measure_memory, case, names, self.device, steps)
        assert isinstance(result, CaseResult)
        return result

    def close(self) -> None:
        """End the process that measures memory."""
        if self._process is not None:
            self._process.close()

    def _calibrate(self) -> None:
        """Measure the peak rates of this machine, unless that was done a short time ago."""
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
        """Return the record of the results so far; the run may have been interrupted."""
        if self.device == "cpu" and self.calibration.get("measured"):
            self._calibrate_cpu()
        return {
            "format": records.FORMAT,
            "machine": self.environment,
            "selection": {
                "shapes": self.shapes,
                "peers": self.level,
                "budget_s": self.budget,
                "complete": self.selected == self.supported
                and set(self.results) == set(self.supported),
            },
            "absent": self.unavailable,
            "calibration": self.calibration,
            "rows": self.rows(),
        }


def name(quantity: str, case: Case, provider: Provider) -> str:
    """Return the name of a benchmark, as option -k sees it."""
    return f"{quantity}/{case.group}/{case.shape.id}/{case.mode}/{case.step}/{provider}"
