"""Test the weights of labels and label smoothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from fastrnn.fusion import ConfigError, TrainConfig
from fastrnn.fusion.batch import IGNORE
from fastrnn.fusion.config import options
from fastrnn.fusion.tasks import task_of

from .conftest import TRAINING, quick

NAMES = ("a", "b", "c")


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 3.0, 0.5])])
def test_smoothing_of_several_labels_is_torchs(weight):
    logits, label = torch.randn(8, 3), torch.randint(0, 3, (8,))
    expected = F.cross_entropy(logits, label, weight, label_smoothing=0.2)
    torch.testing.assert_close(
        task_of("multiclass")(NAMES).loss(logits, label, weight, 0.2), expected
    )
    label[[1, 4, 5]] = IGNORE
    expected = F.cross_entropy(logits, label, weight, ignore_index=IGNORE, label_smoothing=0.2)
    found = task_of("steps")(NAMES).loss(logits.view(2, 4, 3), label.view(2, 4), weight, 0.2)
    torch.testing.assert_close(found, expected)


def test_smoothing_of_two_labels_is_that_of_their_softmax():
    """A logit z of the second of two labels is the pair of logits 0 and z."""
    logits, label = torch.randn(8, 3), torch.randint(0, 2, (8, 3))
    pairs = torch.stack([torch.zeros_like(logits), logits], dim=1)
    expected = F.cross_entropy(pairs, label, label_smoothing=0.2)
    found = task_of("multilabel")(NAMES).loss(logits, label.float(), None, 0.2)
    torch.testing.assert_close(found, expected)
    expected = F.cross_entropy(pairs[..., 0], label[:, 0], label_smoothing=0.2)
    found = task_of("binary")(NAMES[:2]).loss(logits[:, :1], label[:, 0], None, 0.2)
    torch.testing.assert_close(found, expected)


def test_only_the_training_loss_is_smoothed(manifest, tmp_path):
    run = quick(manifest, tmp_path / "run", replace(TRAINING, epochs=1, label_smoothing=0.8))
    network, val = run.trained[0].model.eval(), run.datasets["val"]
    batch = val.batch(range(len(val)))
    with torch.no_grad():
        expected = run.processor.task.loss(network(batch), batch["label"])
    assert run.trained[0].final["val"].loss == pytest.approx(float(expected), rel=1e-5)


def test_balanced_weights_are_those_of_scikit_learn():
    label = torch.tensor([0, 1, 2, 2, 2, 1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=label.numpy())
    found = task_of("multiclass")(NAMES).balance(label)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    first, second = compute_class_weight(
        "balanced", classes=np.arange(2), y=(label > 1).long().numpy()
    )
    assert float(task_of("binary")(NAMES[:2]).balance((label > 1).long())) == pytest.approx(
        second / first
    )


def test_given_weights_are_those_of_scikit_learn():
    given = {"a": 3.0, "c": 0.5}
    expected = compute_class_weight(given, classes=np.array(NAMES), y=np.array([*NAMES]))
    np.testing.assert_allclose(task_of("multiclass")(NAMES).class_weight(given), expected)
    np.testing.assert_allclose(task_of("multilabel")(NAMES).class_weight(given), expected)
    assert task_of("binary")(("no", "yes")).class_weight({"no": 2, "yes": 3}).tolist() == [1.5]
    assert task_of("binary")(("0", "1")).class_weight({"1.0": 3}).tolist() == [3]
    with pytest.raises(ConfigError, match="unknown label 'd'; the labels are a, b, c"):
        task_of("multiclass")(NAMES).class_weight({"d": 1})


def test_forms_of_class_weight():
    pairs = (("yes", 3.0), ("a=b", 1.0))
    expected = TrainConfig(class_weight=pairs)
    for given in ({"yes": 3, "a=b": 1}, "yes=3,a=b=1", [["yes", 3], ["a=b", 1]]):
        assert options.fit_config({"class_weight": given}).train == expected
    assert TrainConfig(class_weight={"yes": 3, "a=b": 1}) == expected
    assert TrainConfig(class_weight={1: 3}).class_weight == (("1", 3.0),)
    balanced = TrainConfig(balance=True)
    assert options.fit_config({"class_weight": "balanced"}).train == balanced
    assert TrainConfig(class_weight="balanced") == balanced
    for given, said in (
        ("yes", "class_weight must be a list such as yes=3,no=1; got 'yes'"),
        ("yes=many", "class_weight must be a list such as yes=3,no=1"),
        ({"yes": 0}, r"class_weight\[0\]\[1\] must be greater than 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            options.fit_config({"class_weight": given})
    with pytest.raises(ConfigError, match="give one"):
        TrainConfig(balance=True, class_weight={"yes": 3})


@pytest.mark.slow
def test_weights_that_balance_train_like_balance(manifest, tmp_path):
    """Eight training rows have each label, so weights of 1 balance them; others do not."""
    weights = {}
    for name, given in (("none", {}), ("equal", {"yes": 2, "no": 2}), ("yes", {"yes": 9})):
        run = quick(manifest, tmp_path / name, replace(TRAINING, class_weight=given))
        weights[name] = run.trained[0].model.state_dict()
    for key, value in weights["none"].items():
        assert torch.equal(weights["equal"][key], value)
    assert any(
        not torch.equal(weights["yes"][key], value) for key, value in weights["none"].items()
    )


def test_an_unknown_label_fails_before_the_run_begins(manifest, tmp_path):
    with pytest.raises(ConfigError, match="unknown label 'maybe'; the labels are no, yes"):
        quick(manifest, tmp_path / "run", replace(TRAINING, class_weight={"maybe": 2}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "given", [{"balance": True}, {"class_weight": {"1": 2}}, {"label_smoothing": 0.1}]
)
def test_options_of_classification(rows, save, tmp_path, given):
    path = save([{"text": "a", "label": number + 0.5} for number in range(30)])
    with pytest.raises(ConfigError, match=f"{next(iter(given))} does not apply to regression"):
        quick(path, tmp_path / "run", replace(TRAINING, **given))
