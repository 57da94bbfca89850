"""Ray: two workers train like one process, and actors predict like one model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fastrnn.fusion import ConfigError, DataError, FitConfig, FusionModel
from fastrnn.fusion.training import state
from tests.fusion.training.test_processes import DATA, OPTIONS, TRAINING, check, work, write

ray = pytest.importorskip("ray")
pytest.importorskip("ray.train")

pytestmark = pytest.mark.slow


def _prepare() -> None:
    """Make a worker compute in float64, and die once, at its third save, if a file asks for it."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    save, order, saves = state.save, Path(os.environ["DIE_ONCE"]), []

    def dying(*arguments):
        saves.append(save(*arguments))
        if len(saves) == 3 and order.exists():
            order.unlink()
            os._exit(1)

    state.save = dying


@pytest.fixture(scope="module")
def die_once(tmp_path_factory):
    """The file that asks for it."""
    return tmp_path_factory.mktemp("orders") / "die"


@pytest.fixture(scope="module")
def cluster(die_once):
    environment = {"DIE_ONCE": str(die_once)}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        runtime_env={"worker_process_setup_hook": _prepare, "env_vars": environment},
    )
    yield
    ray.shutdown()


@pytest.fixture
def storage(tmp_path):
    """Options that keep Ray's files out of the home folder."""
    return ray.train.RunConfig(storage_path=str(tmp_path / "ray"))


CONFIG = FitConfig(DATA, OPTIONS, TRAINING, baselines=False)


def test_two_workers_train_like_one_process(rows, save, tmp_path, cluster, storage):
    from fastrnn.fusion.ray import fit_with_ray

    manifest = write(rows, save)
    work(manifest, str(tmp_path / "one"), TRAINING)
    found = fit_with_ray(manifest, tmp_path / "two", CONFIG, run_config=storage)
    assert found == tmp_path / "two"
    check(tmp_path / "one", tmp_path / "two")
    assert not (tmp_path / "two" / "checkpoint").exists()
    with pytest.raises(ConfigError, match="already contains"):
        fit_with_ray(manifest, tmp_path / "two", CONFIG, run_config=storage)


def test_a_worker_that_dies_is_replaced_and_resumes(
    rows, save, tmp_path, cluster, die_once, storage
):
    from fastrnn.fusion.ray import fit_with_ray

    manifest = write(rows, save)
    work(manifest, str(tmp_path / "one"), TRAINING)
    die_once.touch()
    storage.failure_config = ray.train.FailureConfig(max_failures=1)
    fit_with_ray(manifest, tmp_path / "two", CONFIG, run_config=storage)
    assert not die_once.exists()
    check(tmp_path / "one", tmp_path / "two")


def test_the_error_of_a_worker_is_the_error_of_the_fit(rows, save, tmp_path, cluster, storage):
    from fastrnn.fusion.ray import fit_with_ray

    rows[3]["image"] = "gone.png"
    with pytest.raises(DataError, match=r"line 4: there is no file 'gone\.png'"):
        fit_with_ray(write(rows, save), tmp_path / "run", CONFIG, run_config=storage)


def test_actors_predict_like_one_model(rows, save, tmp_path, cluster):
    from fastrnn.fusion.ray import RayPredictor

    config = replace(TRAINING, epochs=1)
    work(write(rows, save), str(tmp_path / "run"), config)
    rows[3]["image"] = "gone.png"
    frame = pd.DataFrame([{name: row[name] for name in ("image", "text")} for row in rows])
    how = {"root": str(tmp_path), "on_bad_row": "skip"}
    model = FusionModel.from_pretrained(tmp_path / "run")
    expected = frame.join(model.predict_table(frame, **how).add_prefix("predicted_"))
    blocks = ray.data.from_pandas([frame[:10], frame[10:]])
    answers = blocks.map_batches(
        RayPredictor,
        fn_constructor_kwargs={"model": str(tmp_path / "run"), **how},
        batch_format="pandas",
        batch_size=7,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    found = answers.to_pandas().set_index("image").loc[frame["image"]].reset_index()
    assert list(found) == list(expected)
    for name in expected:
        if name.startswith("predicted_p("):
            # The actors compute in float64, this process in float32: 100 roundings.
            one, other = (each[name].to_numpy(float, na_value=np.nan) for each in (found, expected))
            np.testing.assert_allclose(one, other, rtol=100 * 2**-24)
        elif name != "predicted_error":
            assert found[name].dropna().tolist() == expected[name].dropna().tolist()
    assert found["predicted_error"].notna().tolist() == [number == 3 for number in range(20)]
    assert "gone.png" in found["predicted_error"][3]
