"""Callbacks of a fit."""

from __future__ import annotations

from typing import Any, Protocol


class Callback(Protocol):
    """An object that a fit calls after each epoch of each model, in every process."""

    def on_epoch_end(self, metrics: dict[str, Any]) -> bool | None:
        """Look at the metrics; return True to stop the training of this model.

        Args:
            metrics: {"model": "fusion", "epoch": 1, "train": {"loss": ..., "accuracy": ...},
                "val": {"loss": ..., "accuracy": ...}}; a regression has "r2".
        """
        ...
