"""Test which rows each step, batch and process gets."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from fastrnn.fusion.training.sampler import (
    EvaluationSampler,
    StepSampler,
    deal,
    seed_torch,
    shuffled,
)

SIZES = list(product((1, 5, 16, 17), (1, 4, 6, 32)))  # rows, rows of a step


@pytest.mark.parametrize(
    ("rows", "parts", "sizes"),
    [(10, 4, [3, 3, 2, 2]), (1, 4, [1, 0, 0, 0]), (8, 2, [4, 4]), (0, 2, [0, 0])],
)
def test_every_row_is_assigned_once(rows, parts, sizes):
    dealt = deal(range(rows), parts)
    assert [len(each) for each in dealt] == sizes
    assert [row for each in dealt for row in each] == list(range(rows))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize(("rows", "size"), SIZES)
def test_an_epoch_has_every_row_once(rows, size, parts, processes):
    samplers = [
        StepSampler(rows, size, parts, processes, each, seed=3) for each in range(processes)
    ]
    plans = [list(each.plan()) for each in samplers]
    for step, (first, *others) in enumerate(zip(*plans, strict=True)):
        chosen, _ = first
        assert chosen == shuffled(rows, 3, 1)[step * size : (step + 1) * size].tolist()
        assert all(each == chosen for each, _ in others)
        mine = [row for _, dealt in (first, *others) for part in dealt for row in part]
        assert sorted(mine) == sorted(chosen)
        assert all(len(dealt) == parts for _, dealt in (first, *others))
    assert sorted(row for chosen, _ in plans[0] for row in chosen) == list(range(rows))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize(("rows", "size"), SIZES)
def test_batches_follow_the_plan(rows, size, parts, processes):
    """Every process has equally many batches, and none is empty."""
    for process in range(processes):
        sampler = StepSampler(rows, size, parts, processes, process, seed=3)
        batches = list(sampler)
        assert len(batches) == len(sampler) == -(-rows // size) * parts
        plan = [(chosen, part) for chosen, dealt in sampler.plan() for part in dealt]
        for batch, (chosen, part) in zip(batches, plan, strict=True):
            assert batch == list(part or chosen[:1])


@pytest.mark.parametrize("processes", [1, 2])
def test_a_pass_from_any_step_has_the_rest_of_the_plan(processes):
    for process, epoch in product(range(processes), (1, 2)):
        whole = StepSampler(17, 4, 2, processes, process, seed=0, epoch=epoch)
        plan, batches = list(whole.plan()), list(whole)
        for start in range(whole.steps + 1):
            rest = StepSampler(17, 4, 2, processes, process, seed=0, epoch=epoch, start=start)
            assert list(rest.plan()) == plan[start:]
            assert list(rest) == batches[2 * start :]
            assert len(rest) == len(batches) - 2 * start


def test_the_order_depends_on_the_seed_and_the_epoch():
    orders = [shuffled(50, seed, epoch).tolist() for seed, epoch in product((0, 1), (1, 2))]
    assert all(sorted(each) == list(range(50)) for each in orders)
    assert len(set(map(tuple, orders))) == 4
    assert shuffled(50, 0, 1).tolist() == orders[0]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("rows", "size"), SIZES)
def test_an_evaluation_has_every_row_once(rows, size, processes):
    samplers = [EvaluationSampler(rows, size, processes, each) for each in range(processes)]
    plans = [each.plan() for each in samplers]
    assert sorted(row for plan in plans for part in plan for row in part) == list(range(rows))
    first = sorted(row for plan in plans for row in plan[0])
    assert max(np.diff([-1, *first, rows]), default=1) <= len(plans[0]) + 1  # spread over all rows
    assert len({len(each) for each in samplers}) == 1
    for each in samplers:
        assert list(each) == [list(part) or [0] for part in each.plan()]
        assert all(1 <= len(batch) <= size for batch in each)


def test_the_seed_of_torch_depends_on_every_number():
    drawn = []
    for numbers in ((1, 2, 3), (1, 2, 4), (12, 3), (1, 2, 3)):
        seed_torch(*numbers)
        drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3]
