"""Batches of random rows of different lengths, without files, for tests of networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastrnn.fusion import ModelConfig
from fastrnn.fusion.batch import IGNORE, Batch
from fastrnn.fusion.tasks import Task, task_of

SIZE, MELS, VOCABULARY, NGRAMS, VARIABLES, LABELS = 8, 6, 11, 13, 2, 3
ALL = ("audio", "image", "series", "text")


def config(**options: Any) -> ModelConfig:
    """Create the configuration of a tiny model, by default with all four modalities."""
    problem_type = options.get("problem_type", "binary")
    return ModelConfig(
        **{
            "modalities": ALL,
            "outputs": task(problem_type).num_outputs,
            "width": 16,
            "hidden": 12,
            "conv": (4, 8),
            "grid": 2,
            "image_size": SIZE,
            "mels": MELS,
            "vocabulary": VOCABULARY,
            "ngrams": NGRAMS,
            "dropout": 0.0,
            "variables": VARIABLES,
            "fusion": "aligned" if options.get("stream") else "tokens",
        }
        | options
    )


def task(problem_type: str) -> Task:
    """Return a task with LABELS labels, as far as it has labels."""
    count = {"binary": 2, "regression": 0}.get(problem_type, LABELS)
    return task_of(problem_type)(tuple(str(number) for number in range(count)))


class Rows:
    """Random rows; `batch` makes a batch of some, like FusionDataset.batch.

    Every third row lacks a modality in `missing` and has a placeholder.
    """

    def __init__(self, model: ModelConfig, count: int = 6, seed: int = 0) -> None:
        self.model = model
        self.missing = model.missing
        random, others = (torch.Generator().manual_seed(seed) for _ in range(2))

        def number(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=random))

        self.rows: list[dict[str, Tensor]] = []
        for row in range(count):
            steps = number(1, 5) if model.stream else 1
            shape = (steps, 3, SIZE, SIZE) if model.stream else (3, SIZE, SIZE)
            each = {
                "image": torch.randint(0, 256, shape, generator=random).to(torch.uint8),
                "audio": torch.randn(number(5, 12), MELS, generator=random),
                "series": torch.randn(number(3, 9), VARIABLES, generator=random),
                "text": torch.randint(0, VOCABULARY, (number(1, 7),), generator=random),
                "steps": torch.ones(steps, dtype=torch.bool),
                "label": self._label(row, steps, random),
            }
            if model.ngrams:
                grams = 1 + row % 5
                each["text_ngrams"] = torch.randint(1, model.ngrams + 1, (grams,), generator=others)
                each["text_ngram_weights"] = torch.rand(grams, generator=others)
            for name in self.missing:
                if self.lacks(name, row):
                    each[name] = torch.zeros_like(each[name][: 1 if name != "image" else None])
            self.rows.append(each)

    def lacks(self, name: str, row: int) -> bool:
        """Whether a row lacks a modality; no row lacks all."""
        return name in self.missing and (row + self.missing.index(name)) % 3 == 0

    def _label(self, row: int, steps: int, random: torch.Generator) -> Tensor:
        problem_type = self.model.problem_type
        if problem_type == "multilabel":
            return torch.rand(LABELS, generator=random).round()
        if problem_type == "regression":
            return torch.randn((), generator=random)
        if problem_type == "steps":
            label = torch.randint(0, LABELS, (steps,), generator=random)
            label[: row % 2] = IGNORE
            return label
        return torch.tensor(row % (2 if problem_type == "binary" else LABELS))

    def batch(self, *chosen: int) -> Batch:
        """Return the batch of these rows, or of all."""
        numbers = chosen or range(len(self.rows))
        rows = [self.rows[number] for number in numbers]
        batch: Batch = {}
        for name in self.model.modalities:
            values = [row[name] for row in rows]
            if name == "image":
                batch |= _images(values, self.model.stream)
            else:
                batch[name] = pad_sequence(values, batch_first=True)
                batch[f"{name}_lengths"] = torch.tensor([len(value) for value in values])
            if name == "text" and self.model.ngrams:
                for key in ("text_ngrams", "text_ngram_weights"):
                    batch[key] = pad_sequence([row[key] for row in rows], batch_first=True)
            if name in self.missing:
                batch[f"{name}_present"] = torch.tensor([not self.lacks(name, n) for n in numbers])
        if self.model.stream:
            batch["steps"] = pad_sequence([row["steps"] for row in rows], batch_first=True)
        labels = [row["label"] for row in rows]
        batch["label"] = (
            torch.stack(labels)
            if self.model.problem_type != "steps"
            else pad_sequence(labels, batch_first=True, padding_value=IGNORE)
        )
        return batch


def _images(values: list[Tensor], stream: bool) -> Batch:
    if not stream:
        return {"image_frames": torch.stack(values), "image": torch.arange(len(values))}
    counts = [len(value) for value in values]
    index = torch.arange(sum(counts)).split(counts)
    return {"image_frames": torch.cat(values), "image": pad_sequence(list(index), batch_first=True)}
