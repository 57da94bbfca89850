"""Explain a run: the contribution of each modality, their interactions, the content of the state,
and attributions of single predictions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoint, files
from ..batch import Batch, to_device
from ..config.inputs import of_modality
from ..config.schema import BATCH_SIZE
from ..data.dataset import FusionDataset
from ..data.ngrams import occurrences
from ..data.tabular import sources
from ..evaluation import perturbations
from ..evaluation.bootstrap import value
from ..evaluation.run_data import run_rows
from ..inference.loop import Change, InferenceConfig, find_device, predictions
from ..models.network import FusionNetwork
from ..tasks.metrics import plain
from . import attribution, interventions
from .emap import emap

EXPLANATION = "explanation.json"
PICTURES = "pictures"
_PROBED = 512  # rows among which states and modalities are swapped


@dataclass(frozen=True)
class Explainer:
    """A network, the labelled rows that it is explained on, and where pictures are written.

    Attributes:
        folder: pictures go to its folder pictures/, which must exist.
        inference: the batch size, and the processes that decode files.
        seed: seed of every random choice.
    """

    network: nn.Module
    dataset: FusionDataset
    folder: Path
    inference: InferenceConfig
    seed: int = 0

    def explain(self, examples: int) -> dict[str, Any]:
        """Return every explanation, with `examples` rows explained individually."""
        network, dataset = self.network.eval(), self.dataset
        several = len(dataset.processor.modalities) > 1
        batch = self.batch(self._random(_PROBED))
        result: dict[str, Any] = {
            "ablation": self.ablation(),
            "swap_modality": [],
            "emap": None,
            "swap_state": None,
            "states": None,
            "examples": [
                self.explain_row(row, number) for number, row in enumerate(self.choose(examples), 1)
            ],
        }
        probe = interventions.Probe(network, dataset.processor.task, self.seed)
        if several:
            result["swap_modality"] = probe.swap_modalities(dataset.processor.modalities, batch)
        if isinstance(network, FusionNetwork):  # late fusion has no state, and is additive
            if several:
                result["emap"] = emap(network, dataset, seed=self.seed)
            result["swap_state"] = probe.swap_state(batch)
            if examples:
                result["states"] = self.states(network, examples)
        return result

    def write(self, examples: int, origin: Mapping[str, Any]) -> dict[str, Any]:
        """Write explanation.json and pictures/ to the folder.

        Args:
            examples: number of rows to explain individually.
            origin: the name of the model, and where the rows come from.

        Returns:
            The content of explanation.json.
        """
        (self.folder / PICTURES).mkdir(parents=True, exist_ok=True)
        task = self.dataset.processor.task
        result: dict[str, Any] = {
            **origin,
            "problem_type": task.problem_type,
            "score": task.score_name,
            "rows": len(self.dataset),
            **self.explain(examples),
        }
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
        files.write(self.folder / EXPLANATION, text + "\n")
        return result

    def ablation(self) -> list[dict[str, Any]]:
        """Compute the main score without each modality, with it alone, and with it shuffled.

        `shuffled` takes the modality from other rows. It is the most informative, since each input
        remains realistic and only the combination is wrong.
        """
        modalities = self.dataset.processor.modalities
        dataset = self.dataset.shuffle(self.seed)  # changes mix the rows of a block
        generator = torch.Generator().manual_seed(self.seed)

        def judged(change: Change | None) -> float | None:
            found = predictions(self.network, dataset, self.inference, change)
            return plain(value(found, found.task.score_name))

        def without(*names: str) -> Change:
            def change(batch: Batch) -> Batch:
                for name in names:
                    batch = perturbations.remove(batch, name)
                return batch

            return change

        def shuffled(name: str) -> Change:
            return lambda batch: perturbations.donate(
                batch, name, interventions.donors(batch, generator)
            )

        result = []
        unchanged = judged(None)
        for name in modalities:
            entry: dict[str, Any] = {
                "modality": name,
                "unchanged": unchanged,
                "shuffled": judged(shuffled(name)),
            }
            if len(modalities) > 1:
                entry["removed"] = judged(without(name))
                entry["alone"] = judged(without(*(each for each in modalities if each != name)))
            result.append(entry)
        return result

    def choose(self, count: int) -> list[int]:
        """Choose random rows, half of them predicted wrongly if there are enough."""
        order = self._random(len(self.dataset))
        if not self.dataset.processor.task.labels:  # a regression is neither right nor wrong
            return sorted(order[:count])
        found = predictions(self.network, self.dataset, self.inference)
        same = found.predicted == found.truth
        missed = found.row[~(same if same.dim() == 1 else same.all(1))]
        wrong = set(missed.tolist())
        bad = [row for row in order if row in wrong]
        good = [row for row in order if row not in wrong]
        share = min(len(bad), max(count // 2, count - len(good)))
        return sorted(good[: count - share]) + sorted(bad[:share])

    def explain_row(self, row: int, number: int) -> dict[str, Any]:
        """Explain one prediction; its picture is pictures/example-NUMBER.png."""
        network, batch = self.network, self.batch([row])
        with torch.no_grad():
            logits = network(batch)
        chosen = self.dataset.processor.task.explained(logits, batch["label"])
        result = {"where": self.dataset.where(row), **chosen.description}
        if isinstance(network, FusionNetwork):
            found = attribution.over_steps(network, batch, chosen.logit)
            result["steps"] = _attributions(network.step_names(batch), found)
        inputs: dict[str, Tensor] = {}
        for name in self.dataset.processor.modalities:
            if not bool(batch.get(f"{name}_present", torch.ones(1)).all()):
                continue
            if not attribution.can_attribute(network, name):
                continue
            inputs[name] = attribution.over_input(network, batch, name, chosen.logit).cpu()
            if f"{name}_ngrams" in batch:
                found = attribution.over_ngrams(network, batch, name, chosen.logit)
                inputs[name] += self._spread(row, name, batch[f"{name}_ngrams"][0], found)
        texts = of_modality(inputs, "text")
        if texts:
            result["tokens"] = [
                {**each, "input": name} if len(texts) > 1 else each
                for name in texts
                for each in _attributions(self._tokens(name, batch[name][0]), inputs[name])
            ]
        columns: list[dict[str, Any]] = []
        if "tabular" in inputs:
            columns = self._columns(inputs["tabular"])
            result["columns"] = columns
        result["modalities"] = {name: plain(float(each.sum())) for name, each in inputs.items()}
        from ..plots import attributions as plots  # matplotlib is slow to import

        picture = self.folder / PICTURES / f"example-{number}.png"
        drawn = {name: each for name, each in inputs.items() if name not in (*texts, "tabular")}
        host = to_device(batch, "cpu")
        steps = result.get("steps", [])
        frame_ms = {name: self.dataset.processor.frame_ms(name) for name in drawn}
        if (drawn or columns) and plots.example(picture, host, drawn, steps, columns, frame_ms):
            result["picture"] = f"{PICTURES}/{picture.name}"
        return result

    def states(self, network: FusionNetwork, count: int) -> dict[str, Any]:
        """Write pictures/states.png: the units of the state over the steps of random rows."""
        from ..plots import attributions as plots

        chosen = self._random(count)
        batch = self.batch(chosen)
        with torch.no_grad():
            states = network.states(batch).cpu()
        names = network.step_names(batch)
        lengths = states.any(-1).sum(1).clamp(min=1).tolist()  # zero after a row's last step
        where = [self.dataset.where(row) for row in chosen]
        plots.states(self.folder / PICTURES / "states.png", states, lengths, names, where)
        return {"rows": where, "steps": names, "picture": f"{PICTURES}/states.png"}

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return the batch of some rows on the device of the network."""
        return to_device(self.dataset.batch(rows), next(self.network.parameters()).device)

    def _random(self, count: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(len(self.dataset), generator=generator)[:count].tolist()

    def _columns(self, values: Tensor) -> list[dict[str, Any]]:
        """Return the attribution of each tabular column, the sum of those of its features."""
        total: dict[str, float] = {}
        names = sources(self.dataset.processor.tabular)
        for name, each in zip(names, values.tolist(), strict=True):
            column = name.partition(":")[2]
            total[column] = total.get(column, 0.0) + each
        return [{"name": name, "attribution": plain(each)} for name, each in total.items()]

    def _spread(self, row: int, name: str, ngrams: Tensor, values: Tensor) -> Tensor:
        """Divide the attributions of the n-grams of a row's text among its tokens."""
        dataset = self.dataset
        content = dataset.text(row, name)
        tokenizer = dataset.processor.tokenizer_of(name)
        assert tokenizer is not None  # the network reads a text
        spans = tokenizer.encode(content).offsets[: len(dataset[row][name])]
        places = list(occurrences(content, dataset.processor.ngrams))
        share: dict[int, float] = {}
        for number, each in zip(ngrams.tolist(), values.tolist(), strict=True):
            share[number] = share.get(number, 0.0) + each  # an n-gram and a word may share a bucket
        return attribution.spread(share, places, spans)

    def _tokens(self, name: str, ids: Tensor) -> list[str]:
        tokenizer = self.dataset.processor.tokenizer_of(name)
        if tokenizer is None:
            return [str(each) for each in ids.tolist()]
        # A byte-level token may be an incomplete UTF-8 character.
        return [
            tokenizer.decode([each], skip_special_tokens=False).replace("\ufffd", "·")
            for each in ids.tolist()
        ]


def explain_run(
    folder: str | Path,
    manifest: Any = None,
    split: str = "test",
    *,
    examples: int = 6,
    device: torch.device | str | None = "cpu",
    batch_size: int = BATCH_SIZE,
    on_bad_row: str | None = None,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Explain a run's main network; write explanation.json and pictures/ to its folder.

    Args:
        folder: the run's folder.
        manifest, split: as for `evaluate_run`.
        examples: number of rows to explain individually; half of them are predicted wrongly, if
            there are enough.
        device: the device to run on; "auto" for a GPU if there is one.
        batch_size: rows of one forward pass, except of swaps (512) and of the EMAP (100).
        on_bad_row, num_workers: as for `run_rows`.

    Returns:
        The content of explanation.json; see docs/fusion.md.

    Raises:
        FusionError: the folder contains no run, or the manifest cannot be used.
    """
    folder = Path(folder)
    files.check_writable(folder)
    place = find_device(device)
    rows = run_rows(folder, manifest, split, on_bad_row=on_bad_row, num_workers=num_workers)
    name = checkpoint.names(folder)[0]
    network = checkpoint.load_network(folder, name).to(place)
    explainer = Explainer(network, rows.dataset, folder, InferenceConfig(batch_size, num_workers))
    origin = {"model": name, "split": rows.split, "skipped": rows.skipped}
    return explainer.write(examples, origin)


def _attributions(names: Sequence[str], values: Tensor) -> list[dict[str, Any]]:
    return [
        {"name": name, "attribution": plain(each)}
        for name, each in zip(names, values.tolist(), strict=True)
    ]
