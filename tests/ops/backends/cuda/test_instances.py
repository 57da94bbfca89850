"""The instances of the kernels are those that csrc/cuda/generate_instances.py writes."""

import runpy
from pathlib import Path

CUDA = Path(__file__).parents[4] / "csrc" / "cuda"


def test_the_files_are_current() -> None:
    """If this fails, run `python csrc/cuda/generate_instances.py`."""
    generated = runpy.run_path(str(CUDA / "generate_instances.py"))["instances"]()
    assert {path.name: path.read_text() for path in (CUDA / "instances").iterdir()} == generated
    assert len(generated) == 86
