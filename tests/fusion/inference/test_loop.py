"""Test the forward pass over a dataset: order, batches, lack of memory, devices."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch import nn

from fastrnn.fusion import ConfigError, DataConfig, DataError, Processor, load_dataset
from fastrnn.fusion import read_manifest as read
from fastrnn.fusion.evaluation import perturbations
from fastrnn.fusion.inference.loop import InferenceConfig, find_device, forward, predictions

from ..trained import trained_run


class Lengths(nn.Module):
    """A network whose logit is the number of tokens; it records the sizes of its batches.

    Args:
        most: with more rows, it raises an error.
    """

    def __init__(self, most=1000, error=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.most, self.error = most, error
        self.sizes = []

    def forward(self, batch):
        rows = len(batch["text"])
        self.sizes.append(rows)
        if rows > self.most:
            raise self.error
        return batch["text_lengths"][:, None] * self.weight


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.fixture
def dataset(save):
    """Twenty texts of different lengths."""
    rows = [{"text": "word " * (number + 1), "label": "ab"[number % 2]} for number in range(20)]
    manifest = read(save(rows))
    return load_dataset(manifest, Processor.fit(manifest, range(20), DataConfig()))


def run(network, dataset, **options):
    """Return the rows of each batch, and the logits of all rows."""
    found = list(forward(network, dataset, InferenceConfig(**options)))
    for rows, batch, logits in found:
        assert len(rows) == len(batch["label"]) == len(logits)
        assert batch["label"].tolist() == dataset.labels(list(rows)).tolist()
    return [each[0] for each in found], torch.cat([each[2] for each in found])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 20, 256])
def test_rows_come_in_order(dataset, batch_size, num_workers):
    network = Lengths().train()
    rows, logits = run(network, dataset, batch_size=batch_size, num_workers=num_workers)
    assert list(chain(*rows)) == list(range(20))
    assert max(network.sizes) == min(batch_size, 20)
    assert logits[:, 0].tolist() == [len(each) for each in dataset.tokens["text"]]
    assert not logits.requires_grad
    assert not network.training


def test_a_change_reaches_the_network_but_not_the_dataset(dataset):
    def shorten(batch):
        return {**batch, "text_lengths": torch.ones_like(batch["text_lengths"])}

    found = list(forward(Lengths(), dataset, None, shorten))
    assert [logits.tolist() for _, _, logits in found] == [[[1.0]] * 20]
    assert run(Lengths(), dataset)[1].max() > 1


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_change_does_not_depend_on_the_batch_size(dataset, batch_size):
    """Rows that take a modality from another row find it in any batch."""

    def donate(batch):
        return perturbations.donate(batch, "text", torch.arange(20).roll(1))

    config = InferenceConfig(batch_size)
    found = torch.cat([each for *_, each in forward(Lengths(), dataset, config, donate)])
    assert torch.equal(found, run(Lengths(), dataset)[1].roll(1, 0))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "python", "cpu"])
def test_batches_are_halved_without_memory(dataset, error, num_workers):
    network = Lengths(3, error)
    with pytest.warns(RuntimeWarning) as warned:
        rows, logits = run(network, dataset, batch_size=16, num_workers=num_workers)
    # JAX, if another test has imported it, warns of forks too.
    ours = [each for each in warned if "memory" in str(each.message)]
    assert [str(each.message) for each in ours] == [
        f"out of memory; continuing with batch_size {size}" for size in (8, 4, 2)
    ]
    assert ours[0].filename == __file__
    assert network.sizes == [16, 8, 4, *[2] * 10]
    assert list(chain(*rows)) == list(range(20))
    assert torch.equal(logits, run(Lengths(), dataset)[1])


class Tiring(Lengths):
    """Has less memory after its first batch."""

    def forward(self, batch):
        if self.sizes:
            self.most = 2
        return super().forward(batch)


def test_batches_before_the_lack_of_memory_are_kept(dataset):
    network = Tiring(8, MemoryError())
    with pytest.warns(RuntimeWarning):
        rows, _ = run(network, dataset, batch_size=8)
    assert list(chain(*rows)) == list(range(20))
    assert [len(each) for each in rows] == [8, *[2] * 6]


def test_one_row_that_exceeds_the_memory_raises(dataset):
    with pytest.warns(RuntimeWarning), pytest.raises(MemoryError):
        run(Lengths(0, MemoryError()), dataset, batch_size=4)


def test_other_errors_raise_at_once(dataset, recwarn):
    network = Lengths(3, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(network, dataset, batch_size=16)
    assert network.sizes == [16]
    assert not recwarn


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unusable_file_is_named(tmp_path, num_workers):
    data = trained_run(tmp_path, "binary", baselines=False)
    dataset, network = data.datasets["train"], data.trained[0].model
    manifest = read(tmp_path / "manifest.jsonl")
    (tmp_path / manifest.rows[int(dataset.rows[4])].audio).write_bytes(b"damaged")
    dataset = load_dataset(manifest, data.processor, dataset.rows)
    with pytest.raises(DataError, match=rf"{dataset.where(4)}: .*\.wav"):
        run(network, dataset, batch_size=2, num_workers=num_workers)


@pytest.mark.parametrize("problem_type", ["binary", "multilabel", "regression", "steps"])
def test_predictions_do_not_depend_on_batches_and_processes(problem_type, tmp_path):
    data = trained_run(tmp_path, problem_type, baselines=False)
    dataset, network = data.datasets["train"], data.trained[0].model
    whole = predictions(network, dataset)
    assert whole.rows == len(dataset)
    for batch_size, num_workers in ((1, 0), (7, 2)):
        found = predictions(network, dataset, InferenceConfig(batch_size, num_workers))
        assert torch.equal(found.row, whole.row)
        assert torch.equal(found.truth, whole.truth)
        # A batch pads to its longest row, which may change the order of sums: 100 roundings.
        torch.testing.assert_close(found.output, whole.output, rtol=100 * 2**-24, atol=1e-7)


@pytest.mark.parametrize("name", ["nonsense", "", "cuda:99", "meta", "hpu", "vulkan"])
def test_a_device_that_cannot_be_used(name):
    with pytest.raises(ConfigError) as caught:
        find_device(name)
    said = str(caught.value)
    assert said.startswith(f"the device {name!r} cannot be used (")
    assert said.endswith("); choose auto, cpu or cuda")
    assert len(said) < 300
    assert "\n" not in said


def test_devices():
    assert find_device("cpu") == find_device(torch.device("cpu")) == torch.device("cpu")
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert find_device().type == find_device("auto").type == kind


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
    ],
)
def test_invalid_options(options, said):
    with pytest.raises(ConfigError, match=said):
        InferenceConfig(**options)
