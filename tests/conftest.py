"""What every test shares."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers at every run."""
    torch.manual_seed(0)
