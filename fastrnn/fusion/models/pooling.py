"""Pool steps over time, so that a vector represents all of a row and not only its end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config.schema import ModelConfig
from .recurrent import h_of, mean, recurrent, valid


class Pooling(nn.Module):
    """The mean, the maximum, attention and a recurrent layer's final state, joined and projected.

    Attention weights each step by the softmax of a learned score. `ModelConfig.pooling` selects
    some of the four. The state alone is returned as it is.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kinds = config.pooling
        width = config.width
        cell = "rnn" if config.cell == "none" else config.cell  # it concerns only the fusing layer
        self.rnn = recurrent(cell, width, width) if "state" in self.kinds else None
        self.score = nn.Linear(width, 1, bias=False) if "attention" in self.kinds else None
        alone = self.kinds == ("state",)
        self.project = nn.Identity() if alone else nn.Linear(width * len(self.kinds), width)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Pool x [B, L, D], whose rows have `lengths` valid steps, int [B]; return [B, D]."""
        steps = valid(x, lengths)[..., None]  # [B, L, 1]
        parts = []
        for kind in self.kinds:
            if kind == "mean":
                parts.append(mean(x, lengths))
            elif kind == "max":
                parts.append(x.masked_fill(~steps, -torch.inf).amax(1))
            elif self.score is not None and kind == "attention":
                weight = self.score(x).masked_fill(~steps, -torch.inf).softmax(1)
                parts.append((weight * x).sum(1))
            elif self.rnn is not None:
                parts.append(h_of(self.rnn(x, lengths=lengths)[1])[-1])
        return self.project(torch.cat(parts, dim=-1))


def pool_to_steps(x: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
    """Average each row's frames over as many equal parts as the row has steps.

    Args:
        x: [B, F, D], frames.
        lengths: int [B], valid frames of each row, at least 1.
        steps: bool [B, T], valid steps of each row.

    Returns:
        [B, T, D], 0 at invalid steps. The parts are those of adaptive_avg_pool1d.
    """
    count = steps.sum(1)[:, None]  # [B, 1]
    step = torch.arange(steps.shape[1], device=x.device)
    first = step * lengths[:, None] // count  # [B, T]
    end = ((step + 1) * lengths[:, None] + count - 1) // count
    frame = torch.arange(x.shape[1], device=x.device)
    inside = (frame >= first[..., None]) & (frame < end[..., None]) & steps[..., None]  # [B, T, F]
    share = inside.to(x.dtype) / inside.sum(2, keepdim=True).clamp_min(1)
    return share @ x
