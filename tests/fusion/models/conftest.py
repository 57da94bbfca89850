from __future__ import annotations

import pytest


@pytest.fixture
def manifest(rows, save):
    return save(rows)
