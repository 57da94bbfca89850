"""Work division and CPU count of the CPU kernels: csrc/cpu/plan.cpp, cpu_count.cpp."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cpp.build import CSRC, build_program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses Linux interfaces")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cpu = CSRC / "cpu"
    sources = cpu / "plan.cpp", cpu / "cpu_count.cpp"
    return build_program(tmp_path_factory, "plan.cpp", sources=sources)


def answer(program: Path, *arguments: object, **environment: str) -> list[str]:
    bound = {"GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND"}
    env = {name: value for name, value in os.environ.items() if name not in bound} | environment
    command = [str(program), *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    return run.stdout.splitlines()


#: Three plans: parallel, tiles, team size. Then whether linear is parallel, and a thread's share of
#: 100 tasks.
ALONE = ["0 1 1", "0 1 1", "0 1 1", "0", "100"]
SHARED = ["1 2 1", "1 2 1", "1", "50"]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_one_cpu_runs_serially(program: Path, threads: int) -> None:
    assert answer(program, "plan", 1, threads) == 2 * ALONE


needs_two = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two CPUs",
)


@needs_two
@pytest.mark.parametrize("threads", [2, 8])
def test_no_team_forms_after_oversubscription(program: Path, threads: int) -> None:
    """More threads than CPUs get no more tasks than the CPUs run at once."""
    answers = answer(program, "plan", 2, threads)
    assert answers[:5] == ["1 1 2", "1 1 2", *SHARED[1:]]
    assert answers[5:] == ["1 1 1", *SHARED]


@needs_two
def test_four_gates_count_as_four_times_the_work(program: Path) -> None:
    """With one gate, 256² weights are too few to divide two steps or to pack in parallel."""
    assert answer(program, "gates") == ["0 0 1", "1 1 2"]


@needs_two
def test_affinity_is_ignored_if_openmp_binds_threads(program: Path) -> None:
    assert answer(program, "plan", 1, 2, OMP_PROC_BIND="close")[0] == "1 1 2"
    assert answer(program, "plan", 1, 2, OMP_PROC_BIND="FALSE") == 2 * ALONE


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 1),
        ("0::/a\n", {"a/cpu.max": "800000 100000", "cpu.max": "300000 100000"}, 3),
        ("0::/\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/not/mounted/here\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, 0),
        ("0::/\n", {}, 0),
        ("", {}, 0),
        (
            "2:memory:/a\n4:cpu,cpuacct:/a\n0::/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/a/cpu.cfs_period_us": "1e5"},
            3,
        ),
        ("3:cpu:/a\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 0),
        ("3:cpu:/a\n", {"cpu/cpu.cfs_quota_us": "5000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("3:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "1"}, 0),
    ],
)
def test_control_groups(
    program: Path, tmp_path: Path, groups: str, files: dict[str, str], cpus: int
) -> None:
    """Covers both versions, enclosing groups, and containers with their group mounted as root."""
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    found = answer(program, "cgroup", tmp_path / "groups", tmp_path / "mount")
    assert found == [str(cpus)]
