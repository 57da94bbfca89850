"""Test decoding images, and rejecting invalid files before the costly work."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fastrnn.fusion import DataConfig, MediaError
from fastrnn.fusion.data.image import read_image
from tests.fusion.conftest import write_image
from tests.fusion.data.damage import mutated

CONFIG = DataConfig(image_size=16)

WEBP_BOMB = "524946461a000000574542505650384c0e0000002fc7f2b10c071011fd0f4444ff03"


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
def test_image(tmp_path, ending):
    write_image(tmp_path / f"a.{ending}")
    image = read_image(tmp_path / f"a.{ending}", CONFIG)
    assert image.shape == (3, 16, 16)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous


def test_grey_image_keeps_its_values(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", DataConfig(image_size=16, image_channels=1))
    assert np.array_equal(image[0], pixels)


def test_truncated_image(tmp_path):
    write_image(tmp_path / "a.png", size=(64, 64))
    data = (tmp_path / "a.png").read_bytes()
    for share in (0.2, 0.5, 0.9):
        (tmp_path / "a.png").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(MediaError, match=r"a\.png: the image is damaged.*replace the file"):
            read_image(tmp_path / "a.png", CONFIG)


def test_too_many_pixels_are_rejected_by_the_header(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    for side, text in ((7000, "7000×7000 pixels"), (60_000, "pixels")):
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        # The file has no pixels: decoding would fail with another message.
        (tmp_path / "a.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
        )
        with pytest.raises(MediaError, match=text):
            read_image(tmp_path / "a.png", CONFIG)


def ink(mode: str) -> Image.Image:
    """Return an image with black ink in the left half on a transparent red or grey background."""
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    if mode == "RGBA":
        return image
    if mode == "LA":
        return image.convert("LA")
    keyed = Image.new("L", (16, 16), 77)  # 77 is the transparent colour, or palette entry
    keyed.paste(0, (0, 0, 8, 16))
    if mode == "P":
        keyed = Image.frombytes("P", (16, 16), keyed.tobytes())
        keyed.putpalette([0, 0, 0] * 77 + [255, 0, 0] * 179)
    keyed = keyed.convert(mode)
    keyed.info["transparency"] = (77, 77, 77) if mode == "RGB" else 77
    return keyed


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P with bytes", "L", "RGB", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_parts_become_white(tmp_path, mode, channels, recwarn):
    path = tmp_path / ("a.webp" if mode == "webp" else "a.png")
    image = ink("RGBA" if mode == "webp" else mode[:4].strip() if mode != "P with bytes" else "P")
    options = {"lossless": True, "exact": True} if mode == "webp" else {}
    if mode == "P with bytes":
        options["transparency"] = bytes([255] * 77 + [0] * 179)
    image.save(path, **options)
    found = read_image(path, DataConfig(image_size=16, image_channels=channels))
    assert (found[..., :7] == 0).all()
    assert (found[..., 9:] == 255).all()
    assert not recwarn.list


def test_half_transparent_ink_is_half_grey(tmp_path):
    Image.new("RGBA", (16, 16), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", CONFIG) == 127).all()


def test_damaged_metadata_causes_no_warning(tmp_path, recwarn):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x0f\0\x02\0\0\xff\xff\0\0\xff\0"
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "a.jpg", exif=exif)
    read_image(tmp_path / "a.jpg", CONFIG)
    assert not recwarn.list


def test_other_image_formats(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    with pytest.raises(MediaError, match="not a PNG, JPEG, WEBP or BMP"):
        read_image(tmp_path / "a.png", CONFIG)


def test_sixteen_bit_image(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="8 bits"):
        read_image(tmp_path / "a.png", CONFIG)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_damaged_images_are_rejected_or_read(tmp_path, ending, mode):
    path = tmp_path / f"a.{ending}"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    (image if ending in ("png", "bmp") else image.convert("RGB")).save(path)
    refusals: list[str] = []
    for noise in mutated(path.read_bytes(), 60):
        path.write_bytes(noise)
        try:
            assert read_image(path, CONFIG).shape == (3, 16, 16)
        except MediaError as error:
            refusals.append(str(error))
    assert len(refusals) >= 20  # at least the truncated ones
    assert all(str(path) in each for each in refusals)


def test_a_webp_of_34_bytes(tmp_path):
    # One colour, 13,000 × 13,000 pixels: the header is rejected before the canvas is filled.
    (tmp_path / "a.webp").write_bytes(bytes.fromhex(WEBP_BOMB))
    with pytest.raises(MediaError, match="13000×13000 pixels are more than the 40000000 allowed"):
        read_image(tmp_path / "a.webp", DataConfig())
