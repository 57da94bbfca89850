"""Compile the CUDA kernels with nvcc, without a GPU, and check the machine code.

No register is spilled. The step loops multiply on tensor cores, have no fence and no local memory,
and no more barriers than their strategy needs.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="cuobjdump comes with Triton")

from tests.test_build import unstable_symbols
from tools.cuda_stats import ARCHS, Instance, compiled, nvcc, read, sources, spills
from tools.sass import Stats

ROOT = Path(__file__).parents[4]

pytestmark = [
    pytest.mark.skipif(nvcc() is None, reason="needs nvcc"),
    pytest.mark.skipif(shutil.which("c++filt") is None, reason="needs c++filt"),
]

#: Barriers in the step loop. `cluster` has one for the splits of a tile, and one for a block that
#: has no cluster. `grid` has one for a block. `step`, in which the longest loop is over the depth,
#: has one for a block before a product without tensor cores, and one after it.
BARRIERS = {"cluster": 2, "grid": 1, "step": 2, "rows": 1}


def check(instance: Instance, taken: Stats) -> None:
    assert taken.spilled == 0, instance
    assert taken.local == 0, instance
    assert taken.fences == 0, instance
    assert taken.barriers <= BARRIERS[instance.strategy], instance
    if instance.element != "Float64" and instance.strategy != "rows":
        assert taken.matrix > 0, instance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("step_tf32", "90a"),
        pytest.param("rows_bfloat16", "80", marks=pytest.mark.exhaustive),
        pytest.param("rows_float32", "90a", marks=pytest.mark.exhaustive),
        pytest.param("grid_bfloat16", "80", marks=pytest.mark.exhaustive),
        pytest.param("cluster_tf32", "100", marks=pytest.mark.exhaustive),
        pytest.param("cluster_bfloat16", "90a", marks=pytest.mark.exhaustive),
        pytest.param("cluster_projected_bfloat16", "90a", marks=pytest.mark.exhaustive),
        pytest.param("grid_float32", "90a", marks=pytest.mark.exhaustive),
        pytest.param("grid_gru_bfloat16", "90a", marks=pytest.mark.exhaustive),
        pytest.param("cluster_lstm_bfloat16", "90a", marks=pytest.mark.exhaustive),
        pytest.param("cluster_resets_bfloat16", "90a", marks=pytest.mark.exhaustive),
        pytest.param("grid_gru_tf32", "90a", marks=pytest.mark.exhaustive),
        pytest.param("step_leaky_pre_float32", "80", marks=pytest.mark.exhaustive),
        pytest.param("grid_resets_float32", "90a", marks=pytest.mark.exhaustive),
    ],
)
def test_selected_instances(name: str, arch: str) -> None:
    (source,) = (source for source in sources() if source.stem == name)
    every = compiled(source, arch)
    assert every
    for instance, taken in every.items():
        check(instance, taken)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "90a"])
def test_weight_gradients(arch: str, tmp_path: Path) -> None:
    target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    command = [nvcc() or "nvcc", "-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", target, "-cubin"]
    source = ROOT / "csrc" / "cuda" / "weight_grad.cu"
    command += ["-Xptxas", "-v", "-o", str(tmp_path / "weight_grad.cubin"), str(source)]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert report.count(" 0 bytes spill stores, 0 bytes spill loads") == 4, report


def built(tree: Path, archs: Iterable[str]) -> Path:
    """Build fastrnn._cuda for these architectures; torch need not have CUDA."""
    for folder in ("csrc", "fastrnn"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*_build_error.txt")
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    capabilities = [re.sub(r"(\da?)$", r".\1", arch) for arch in archs]
    build = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=tree,
        env=os.environ | {"FASTRNN_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": ";".join(capabilities)},
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    (library,) = (tree / "fastrnn").glob("_cuda.*.so")
    return library


@pytest.mark.exhaustive
def test_all_instances(tmp_path: Path) -> None:
    """Check every instance on its architectures, and load the library; one test for one build."""
    library = built(tmp_path, ARCHS)
    for arch in ARCHS:
        spilled = spills(library, arch)
        strategies = {"grid", "step", "rows"} | ({"cluster"} if arch != "80" else set())
        assert {instance.strategy for instance in spilled} >= strategies
        assert not {str(instance): bytes for instance, bytes in spilled.items() if bytes > 0}
    for instance, taken in read(library, "90a").items():
        check(instance, taken)
    check_loading(library)


def check_loading(library: Path) -> None:
    """The library can be loaded and inspected, even if torch has no CUDA."""
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if not "
        "getattr(f, '__module__', '').startswith('__editable__')]; "
        "import torch; from fastrnn.ops.backends import cuda; "
        "print(cuda.EXTENSION.unavailable_reason, cuda.EXTENSION.info['torch_target'], "
        "torch.ops.fastrnn.cuda_forward.default._schema.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=library.parents[1], capture_output=True, text=True
    )
    assert done.stdout == "None 2.10 fastrnn::cuda_forward\n", done.stderr
    if shutil.which("nm"):
        assert unstable_symbols(library) == []
