"""Run the other tests of this folder with other versions of Triton, through `make try`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]

#: The oldest supported version, whose interpreter needs an older NumPy, and the newest one.
#: constraints.txt has the version in between.
OTHERS = ["triton==3.6.0 numpy==2.3.5", "triton==3.9.0"]

#: Variables of the make that runs this test, which the inner make must not inherit.
MAKE = {"MAKEFLAGS", "MFLAGS", "MARK"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("versions", OTHERS)
def test_other_versions(versions: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps"]
    offer = subprocess.run([*pip, "--retries=0", *versions.split()], capture_output=True, text=True)
    if offer.returncode != 0:
        pytest.skip(f"pip does not find {versions}: {offer.stderr.strip().splitlines()[-1]}")
    command = ["make", "try", f"WITH={versions}", "TESTS=tests/ops/backends/triton"]
    environment = {name: value for name, value in os.environ.items() if name not in MAKE}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-10_000:]
