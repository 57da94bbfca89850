"""Fixtures of all tests."""

import sys

import pytest
import torch

# OpenVINO sends telemetry over the network from processes that it forks.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seed the random numbers of every test."""
    torch.manual_seed(0)
