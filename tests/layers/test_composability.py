"""Layers work with other parts of torch: processes, optimizers, parametrizations, averages.

None of these uses may warn. On a GPU, nn.RNN warns after most of them that weights "are not part of
single contiguous chunk of memory".
"""

import copy
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from fastrnn import FusedRNN

from ..utils.nn_rnn_parity import LAYERS, assert_same, paired_layers, rnn_and_lstm, tensors

pytestmark = pytest.mark.filterwarnings("error")
X = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def layer(ours=FusedRNN, **options):
    torch.manual_seed(0)
    return ours(3, 4, 2, bidirectional=True, dtype=torch.float64, **options)


def loss_of(rnn: Callable, x: Tensor = X) -> Tensor:
    output, *states = tensors(rnn(x))
    return output.square().mean() + sum(state.mean() for state in states)


def moved(rnn: FusedRNN) -> FusedRNN:
    rnn.float().double().to("meta").to_empty(device="cpu").reset_parameters()
    return rnn


def replaced(rnn: FusedRNN) -> FusedRNN:
    for name in ("weight_hh_l0", "bias_ih_l1_reverse"):
        setattr(rnn, name, nn.Parameter(getattr(rnn, name).detach() * 0.5))
    return rnn


def pruned(rnn: FusedRNN) -> FusedRNN:
    prune.random_unstructured(rnn, "weight_hh_l0", amount=0.5)
    return rnn


def tied(rnn: FusedRNN) -> FusedRNN:
    rnn.weight_hh_l0_reverse = rnn.weight_hh_l0
    return rnn


WAYS = {
    "fresh": lambda rnn: rnn,
    "copied": copy.deepcopy,
    "moved": moved,
    "replaced": replaced,
    "pruned": pruned,
    "tied": tied,
    "shared": lambda rnn: rnn.share_memory(),
    "weight_norm": lambda rnn: parametrizations.weight_norm(rnn, "weight_hh_l0"),
    "spectral_norm": lambda rnn: parametrizations.spectral_norm(rnn, "weight_hh_l0"),
    "orthogonal": lambda rnn: parametrizations.orthogonal(rnn, "weight_hh_l0"),
}


@rnn_and_lstm
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_training_and_evaluation_do_not_warn(way, ours):
    rnn = way(layer(ours, dropout=0.25))
    optimizer = torch.optim.SGD(rnn.parameters(), lr=0.5)
    before = loss_of(rnn.eval()).item()
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(rnn.train()).backward()
        optimizer.step()
    assert all(p.grad.isfinite().all() for p in rnn.parameters())
    loss_of(rnn.eval()).backward()
    assert loss_of(rnn).item() < before


@pytest.mark.parametrize("way", [{"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@rnn_and_lstm
def test_optimizers_with_clipping_match_torchs_layers(optimizer, way, ours):
    layers = paired_layers(3, 4, 2, ours=ours, dtype=torch.float64)
    for rnn in layers:
        steps = optimizer(rnn.parameters(), lr=0.1, **way)
        for _ in range(3):
            steps.zero_grad()
            loss_of(rnn).backward()
            nn.utils.clip_grad_norm_(rnn.parameters(), 0.1)
            steps.step()
    assert_same(*(list(rnn.parameters()) for rnn in layers))


@rnn_and_lstm
def test_averaged_model_equals_a_layer_with_averaged_weights(ours):
    rnn = layer(ours)
    average = AveragedModel(rnn, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(rnn)  # the first update copies the weights
    expected = copy.deepcopy(rnn)
    with torch.no_grad():
        for p, e in zip(rnn.parameters(), expected.parameters(), strict=True):
            p.add_(1)
            e.add_(0.5)
    average.update_parameters(rnn)
    assert_same(average(X), expected(X))


class Encoded(Dataset):
    """Encodes in a worker, which is forked from a process that has used its threads."""

    def __init__(self, rnn: FusedRNN) -> None:
        self.rnn = rnn

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> Tensor:
        with torch.no_grad():
            return self.rnn(X[:, row : row + 1])[0][:, 0]


@rnn_and_lstm
def test_data_loader_worker_runs_the_layer(ours):
    rnn = layer(ours)
    with torch.no_grad():
        ours(64, 64)(torch.randn(20, 64, 64))  # large enough to use all threads
        expected = rnn(X)[0]
    batches = DataLoader(
        Encoded(rnn), batch_size=2, num_workers=1, multiprocessing_context="fork", timeout=60
    )
    with warnings.catch_warnings():
        # Python warns if a process with threads forks, and JAX if another test has loaded it.
        warnings.filterwarnings("ignore", ".*fork")
        found = torch.cat(list(batches))
    assert_same(found.transpose(0, 1), expected)


def work(rank: int, store: str) -> None:
    """Train on half of the batch in one of two processes, and compare with the whole batch."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        half = X[:, 2 * rank : 2 * rank + 2]
        for ours, shard in itertools.product(LAYERS, (False, True)):
            rnn, whole = layer(ours), layer(ours)
            if shard:
                # Without a mesh, fully_shard would move the layer to a GPU if there is one.
                run = fully_shard(rnn, mesh=init_device_mesh("cpu", (2,)))
            else:
                run = nn.parallel.DistributedDataParallel(rnn)
            for each, x in ((run, half), (whole, X)):
                optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
                loss_of(each, x).backward()
                optimizer.step()
            for p, e in zip(rnn.parameters(), whole.parameters(), strict=True):
                full = (lambda t: t.full_tensor()) if shard else (lambda t: t)
                assert_same(full(p.grad), e.grad)
                assert_same(full(p).detach(), e.detach())
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
@pytest.mark.filterwarnings("default")  # the spawned processes may warn
def test_two_processes_train_as_one_with_ddp_and_fsdp2(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path / "store"),), nprocs=2)
