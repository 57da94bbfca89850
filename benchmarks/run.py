"""`python -m benchmarks run`: measure fastrnn and the baselines in interleaved turns."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from . import baselines, runner
from .groups import GROUPS, SELECTIONS
from .report import records, tables
from .runner import CaseResult
from .session import Session
from .shapes import Case

DESCRIPTION = """\
Measure fastrnn and the baselines in interleaved turns, and write a record.

pytest-benchmark times one function after another: on a busy machine, each side of a ratio then has
other noise. Here the providers of a case take turns of some 20 ms, so that machine noise affects
all of them equally. A ratio is the median over the turns. Results are verified before they are
timed, and peak memory is measured too. The record in benchmarks/results can be compared with
others of the same machine.
"""

#: The steps of a case with --verify-only: more than `auto` leaves to nn.RNN.
VERIFY_STEPS = 4

#: By default --verify-only starts a process for each core, but no more than this.
MAX_JOBS = 4

#: --verify-only prints a line after so many cases.
CASES_PER_LINE = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join((*SELECTIONS, *GROUPS))
    parser.add_argument(
        "--shapes", default="quick", help=f"comma-separated names (default: quick) out of: {names}"
    )
    parser.add_argument(
        "--baselines",
        choices=baselines.LEVELS,
        default="all",
        help="how many baselines to compare with, for shapes that have more (default: all)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if available")
    parser.add_argument(
        "--budget",
        type=float,
        default=0.4,
        metavar="SECONDS",
        help="for each time measured (default: 0.4)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="for torch.set_num_threads")
    parser.add_argument(
        "-k",
        dest="pattern",
        default="",
        metavar="REGEX",
        help="run only the benchmarks whose name matches, such as "
        "time/overview/100x8x64x64/float32/training/nn.RNN",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=records.RESULTS,
        metavar="FOLDER",
        help="write the record there (default: benchmarks/results)",
    )
    parser.add_argument(
        "--verify-only",
        action="store_true",
        help=f"verify every result over {VERIFY_STEPS} steps; measure and record nothing",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(MAX_JOBS, os.cpu_count() or 1),
        metavar="N",
        help=f"processes of --verify-only (default: one for each core, up to {MAX_JOBS})",
    )


def main(given: argparse.Namespace) -> int:
    """Return the exit status: 1 if a result is wrong, 2 if the run was interrupted.

    Raises:
        ValueError: no benchmark is selected.
    """
    session = Session(
        given.shapes, given.baselines, given.device, given.budget, given.threads, given.pattern
    )
    if not session.selected:
        raise ValueError("no benchmark is selected; `python -m benchmarks shapes` lists the shapes")
    try:
        if given.verify_only:
            return verify_all(session, given.jobs)
        return measure_all(session, given.results)
    finally:
        session.close()


def measure_all(session: Session, results: Path) -> int:
    """Measure all benchmarks of a session, and write the record."""
    times = sum(len(ps) for (quantity, _), ps in session.selected.items() if quantity == "time")
    print(
        f"{session.shapes} shapes on {session.device}, {torch.get_num_threads()} threads: "
        f"{len(session.selected)} cases, {times} times of {session.budget:g} s"
    )
    status = 0
    try:
        for number, (quantity, case) in enumerate(session.selected, 1):
            print(f"[{number}/{len(session.selected)}] {_title(quantity, case)}:", end=" ")
            sys.stdout.flush()
            result = session.measure(quantity, case)
            print("; ".join(_values(result)))
            status = 1 if result.wrong else status
    except (KeyboardInterrupt, runner.DeviceLost) as error:
        print(f"interrupted: {error}")
        status = 2
    if not session.results:
        return status
    record = records.write(session.record(), results)
    print()
    for line in tables.summary(session.rows()):
        print(line)
    for provider, reason in session.unavailable.items():
        print(f"not measured: {provider} ({reason})")
    for error in session.calibration.get("errors", ()):
        print(f"not calibrated: {error}")
    print(f"\nrecord: {record}")
    return status


def _title(quantity: str, case: Case) -> str:
    return f"{case.scope} {case}" if quantity == "time" else f"memory of {case.scope} {case}"


def _values(result: CaseResult) -> Iterator[str]:
    for provider, times in result.times.items():
        yield f"{provider} {tables.number(times.median)} ms"
    for provider, mib in result.mib.items():
        yield f"{provider} {tables.number(mib)} MiB"
    for provider, seconds in result.too_long.items():
        yield f"{provider} not repeated ({seconds:.0f} s)"
    for provider, reason in result.wrong.items():
        yield f"{provider} WRONG: {reason}"


def verify_all(session: Session, jobs: int) -> int:
    """Verify the results of all benchmarks of a session over a few steps, in several processes."""
    # Forked processes inherit torch's threads in a broken state.
    pool = ProcessPoolExecutor(
        jobs, get_context("spawn"), torch.set_num_threads, (torch.get_num_threads(),)
    )
    verified, status = 0, 0
    with pool:
        for verified, result in enumerate(_verified(session, pool), 1):
            if verified % CASES_PER_LINE == 0:
                print(f"{verified} of {len(session.selected)} cases", flush=True)
            for provider, reason in result.wrong.items():
                print(f"WRONG {provider}, {result.case.scope} {result.case}: {reason}", flush=True)
                status = 1
    results = sum(map(len, session.selected.values()))
    print(f"verified {results} results of {verified} cases: {'some' if status else 'none'} wrong")
    return status


def _verified(session: Session, pool: ProcessPoolExecutor) -> Iterator[CaseResult]:
    """The results of all cases, those of memory while the pool computes the others."""
    futures: list[Future[CaseResult]] = [
        pool.submit(
            runner.verify_results,
            case,
            [provider.name for provider in providers],
            session.device,
            min(case.shape.T, VERIFY_STEPS),
        )
        for (quantity, case), providers in session.selected.items()
        if quantity == "time"
    ]
    for quantity, case in session.selected:
        if quantity == "memory":
            yield session.measure_memory(case, min(case.shape.T, VERIFY_STEPS))
    for future in as_completed(futures):
        yield future.result()
