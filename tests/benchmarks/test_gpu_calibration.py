"""The calibration of a GPU, tested without one: its compiled code and the parsing of its output."""

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.roofline import calibration, gpu_calibration


@pytest.mark.parametrize(
    ("capability", "arch"), [((8, 0), "8.0"), ((9, 0), "9.0a"), ((10, 0), "10.0a")]
)
def test_architecture(capability: tuple[int, int], arch: str) -> None:
    assert gpu_calibration.architecture(capability) == arch


def test_incomplete_output_is_parsed() -> None:
    output = (
        'a line of cudart\n{"name": "block_exchange", "value": 81.5}\n'
        '{"name": "product_cycles", "value": {"half": 1.0, "tf32": 2.0}}\n'
        '{"name": "grid_exchange", "error": "too many blocks"}\n{"name": "clus'
    )
    found = calibration.parse(output)
    assert found["measured"] == {"block_exchange": 81.5, "product_cycles": {"half": 1, "tf32": 2}}
    assert found["errors"] == ["grid_exchange: too many blocks"]
    table = gpu_calibration.table({"assumed": {"block_exchange": 100.0}, **found})
    assert "block_exchange" + " " * 18 + "81.5" + " " * 9 + "100" in table
    assert "product_cycles tf32" in table
    assert "too many blocks" in table


def test_calibrated_constants_are_those_of_the_plan() -> None:
    """Every name that calibrate.cu reports is a constant of the cost model, except the clock."""
    names = re.findall(r'report\("(\w+)"', gpu_calibration.SOURCE.read_text())
    assumed = gpu_calibration.assumed(gpu_calibration.MODEL.read_text())
    assert len(names) == 11
    assert set(names) - {"clock"} <= set(assumed)
    assert all(value > 0 for value in assumed.values())


#: The instructions that the loops of calibrate.cu must contain, by the name of the kernel.
LOOPS = {
    "block_exchange": ("STS", "BAR.SYNC", "LDS"),
    "cluster_exchange": ("STAS", "SYNCS.ARRIVE", "SYNCS.PHASECHK"),
    "cluster_bandwidth": ("STAS", "SYNCS.ARRIVE", "SYNCS.PHASECHK"),
    "grid_exchange": ("STG.E.64.STRONG.GPU", "LDG.E.128.STRONG.GPU"),
    "read_l2": ("LDG.E.128.STRONG.GPU",) * 8,
    "products.*Bfloat16.*Li4E": ("HMMA.16816.F32.BF16",) * 16,
    "products.*Bfloat16.*Li1E": ("HMMA.16816.F32.BF16",) * 16,
    "products.*Tf32.*Li4E": ("HMMA.1688.F32.TF32",) * 16,
    "reduction": ("STS", "BAR.SYNC", "LDS"),
}


def test_compiled_loops_contain_the_measured_instructions(tmp_path: Path) -> None:
    compiler = gpu_calibration.nvcc()
    if compiler is None:
        pytest.skip("needs nvcc")
    pytest.importorskip("triton")
    from tools.sass import cuobjdump

    cubin = tmp_path / "calibrate.cubin"
    command = [*gpu_calibration.compile_command(compiler, "9.0a", cubin), "-cubin"]
    subprocess.run(command, check=True, capture_output=True)
    kernels = cuobjdump("-sass", cubin).split("Function : ")[1:]
    for name, expected in LOOPS.items():
        (code,) = (kernel for kernel in kernels if re.match(rf"\S*{name}", kernel))
        # The code between the two reads of the clock.
        timed = code[code.index("SR_CLOCKLO") : code.rindex("SR_CLOCKLO")]
        for instruction in set(expected):
            assert timed.count(f" {instruction}") >= expected.count(instruction), name
        assert "MEMBAR" not in timed, name
        assert not re.search(r"\b(LDL|STL)", code), name
