"""A fixture: rows of every modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def full(rows: list[dict[str, Any]], tmp_path: Path) -> list[dict[str, Any]]:
    """The rows with a series of two variables: a list, a .csv file or a .npy file."""
    dice = np.random.default_rng(0)
    for number, row in enumerate(rows):
        values = dice.normal((3, -20), (2, 0.5), (3 + number % 5, 2)).round(3)
        if number % 3 == 0:
            row["series"] = values.tolist()
            continue
        row["series"] = f"{number}.{'csv' if number % 3 == 1 else 'npy'}"
        if number % 3 == 1:
            pd.DataFrame(values, columns=["p", "q"]).to_csv(tmp_path / row["series"], index=False)
        else:
            np.save(tmp_path / row["series"], values)
    return rows
