"""The forward pass over the rows of a dataset, for evaluation, prediction and explanation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ..batch import Batch, select_rows, to_device
from ..config.parser import Checked, Range
from ..config.schema import BATCH_SIZE
from ..data.dataset import FusionDataset
from ..data.loader import BatchLoader
from ..errors import ConfigError
from ..tasks import Predictions, Task

Change = Callable[[Batch], Batch]  # a perturbation of a batch


@dataclass(frozen=True)
class InferenceConfig(Checked):
    """How rows are passed through a network."""

    batch_size: Annotated[int, Range(1)] = BATCH_SIZE  # rows of one forward pass
    num_workers: Annotated[int, Range(0, 1024)] = 0  # processes that decode files


def find_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device of a name; None or "auto" chooses a GPU if there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name is None or name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # an absent device only fails when it is used
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise ConfigError(
            f"the device {str(name)!r} cannot be used ({reason}); choose auto, cpu or cuda"
        ) from None
    return device


def forward(
    network: nn.Module,
    dataset: FusionDataset,
    config: InferenceConfig | None = None,
    change: Change | None = None,
) -> Iterator[tuple[range, Batch, Tensor]]:
    """Run a network on every row of a dataset, in order, without gradients.

    When memory runs out, the batch size is halved, with a warning.

    Args:
        network: the network, which is put in evaluation mode. Batches go to its device.
        dataset: the rows.
        config: the batch size, and the processes that decode files.
        change: a perturbation of blocks of BATCH_SIZE rows, on the CPU. Therefore it does not
            depend on `config`.

    Yields:
        The rows, their batch and their logits, both on the device of the network.

    Raises:
        DataError: a file cannot be used; the message names the row and the file.
    """
    config = config or InferenceConfig()
    batch_size = config.batch_size
    device = next(network.parameters()).device
    network.eval()
    blocks = _consecutive(0, len(dataset), batch_size if change is None else BATCH_SIZE)
    loader = BatchLoader(dataset, blocks, config.num_workers, pin_memory=device.type == "cuda")
    for block, loaded in zip(blocks, loader, strict=True):
        whole = loaded if change is None else change(loaded)
        done = 0
        while done < len(block):
            rows = range(done, min(done + batch_size, len(block)))
            batch = whole if len(rows) == len(block) else select_rows(whole, rows)
            try:
                batch = to_device(batch, device)
                with torch.no_grad():
                    logits = network(batch)
            except (RuntimeError, MemoryError) as error:
                if batch_size == 1 or not _out_of_memory(error):
                    raise
                batch_size = max(1, min(batch_size, len(rows)) // 2)
                text = f"out of memory; continuing with batch_size {batch_size}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
                continue
            yield block[done : rows.stop], batch, logits
            done = rows.stop


def predictions(
    network: nn.Module,
    dataset: FusionDataset,
    config: InferenceConfig | None = None,
    change: Change | None = None,
) -> Predictions:
    """Compute a network's outputs on labelled rows; see `forward` for the arguments.

    Steps without a label are dropped. A regression is in the units of its labels.
    """
    task = dataset.processor.task
    found: list[Sequence[Tensor]] = []
    for rows, batch, logits in forward(network, dataset, config, change):
        output, truth, row = task.items(logits, batch["label"])
        found.append((output, truth.cpu(), row + rows.start))
    return gather(task, found, len(dataset))


def gather(task: Task, parts: Sequence[Sequence[Tensor]], rows: int) -> Predictions:
    """Join the (output, truth, row) of several batches."""
    output, truth, row = (torch.cat(each) for each in zip(*parts, strict=True))
    return Predictions(task, output, truth, row, rows)


def _consecutive(start: int, end: int, size: int) -> list[range]:
    return [range(at, min(at + size, end)) for at in range(start, end, size)]


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch has no exception type for that on the CPU."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
