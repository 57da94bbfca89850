"""What every test shares."""

import sys

import pytest
import torch

# OpenVINO reports its use over the network, from processes that it forks off the tests'.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers at every run."""
    torch.manual_seed(0)
