"""Fixtures of all tests."""

import os
import sys

import pytest
import torch

# The threads of parallel test processes would wait for each other: a call of a millisecond takes
# thirty. Tests of threads set their number.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start

# OpenVINO sends telemetry over the network from processes that it forks.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seed the random numbers of every test."""
    torch.manual_seed(0)
