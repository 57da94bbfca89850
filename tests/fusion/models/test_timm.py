"""Pretrained models of timm, compared with timm's own transforms and models."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from fastrnn.fusion.errors import ConfigError
from fastrnn.fusion.models.views import view

from .pretrained import ROWS, edited, prepared, save_timm

try:
    import timm
except (ImportError, RuntimeError) as error:
    # timm needs torchvision, which raises RuntimeError if its compiled operators do not fit torch:
    # PyPI has no torchvision for a CPU build of torch.
    pytest.skip(f"timm cannot be imported: {error}", allow_module_level=True)


TIMM = {
    "vit_tiny_patch16_224": {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "resnet10t": {},
}


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_features_are_those_of_timm(name, rows, manifest, tmp_path):
    model = save_timm(tmp_path / "image", name, **TIMM[name])
    saved_config = json.loads((tmp_path / "image" / "config.json").read_text())["pretrained_cfg"]
    config = timm.data.resolve_data_config({}, pretrained_cfg=saved_config)
    transform = timm.data.create_transform(**config)
    images = [Image.open(tmp_path / row["image"]).convert("RGB") for row in rows]
    model.reset_classifier(0)
    expected = model(torch.stack([transform(image) for image in images]))
    network, dataset = prepared(manifest, encoders={"image": f"timm:{tmp_path / 'image'}"})
    batch = view(dataset.batch(ROWS), "image")
    found = network.eval().encoder("image").encoder(batch)
    # float32 sums of at most 4,608 terms through ten layers, of values up to the largest
    bound = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=bound)
    steps = network.encoder("image").encoder
    steps.returns_steps = True
    assert steps(batch).shape[::2] == (len(ROWS), steps.features)


def test_an_untrusted_timm_model_names_no_file(manifest, tmp_path):
    """`checkpoint_path` would unpickle a file."""
    save_timm(tmp_path / "image", "resnet10t")
    path = tmp_path / "image" / "config.json"
    for changes, message in (
        ({"model_args": {"checkpoint_path": "x.pth"}}, "must not contain checkpoint_path"),
        ({"architecture": "hf-hub:someone/model"}, "timm has no image model"),
    ):
        before = path.read_text()
        edited(path, **changes)
        with pytest.raises(ConfigError, match=message):
            prepared(manifest, encoders={"image": f"timm:{tmp_path / 'image'}"})
        path.write_text(before)
