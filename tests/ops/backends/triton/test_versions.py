"""The other tests here under other versions of Triton, as `make try` runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]

#: Of the versions that we support the oldest, whose interpreter needs an older NumPy, and the
#: newest; constraints.txt has the one in between.
OTHERS = ["triton==3.6.0 numpy==2.3.5", "triton==3.9.0"]

#: What the make that runs this test was told is not meant for another.
MAKE = {"MAKEFLAGS", "MFLAGS", "MARK"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("versions", OTHERS)
def test_other_versions(versions: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps"]
    offer = subprocess.run([*pip, "--retries=0", *versions.split()], capture_output=True, text=True)
    if offer.returncode != 0:
        pytest.skip(f"pip finds no {versions}: {offer.stderr.strip().splitlines()[-1]}")
    command = ["make", "try", f"WITH={versions}", "TESTS=tests/ops/triton"]
    environment = {name: value for name, value in os.environ.items() if name not in MAKE}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-10_000:]
