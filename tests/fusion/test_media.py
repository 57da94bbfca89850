"""Decoding images and clips: what comes out, and what is refused before it costs anything."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from fastrnn.fusion import DataConfig, MediaError, Preprocessor, read_manifest
from fastrnn.fusion.media import log_mel, mel_bank, read_audio, read_image, resample

from .conftest import write_clip, write_image

CONFIG = DataConfig(image_size=16, sample_rate=8000)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
def test_image(tmp_path, ending):
    write_image(tmp_path / f"a.{ending}")
    image = read_image(tmp_path / f"a.{ending}", CONFIG)
    assert image.shape == (3, 16, 16)
    assert image.dtype == torch.uint8


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


def test_too_many_pixels_are_refused_by_the_header(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    for side, text in ((7000, "7000×7000 pixels"), (60_000, "pixels")):
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        # There are no pixels at all: decoding would say so, in other words.
        (tmp_path / "a.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
        )
        with pytest.raises(MediaError, match=text):
            read_image(tmp_path / "a.png", CONFIG)


def test_other_image_formats(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    with pytest.raises(MediaError, match="not a PNG, JPEG, WEBP or BMP"):
        read_image(tmp_path / "a.png", CONFIG)


def test_sixteen_bit_image(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="8 bits"):
        read_image(tmp_path / "a.png", CONFIG)


def test_clip(tmp_path):
    write_clip(tmp_path / "a.wav", 0.5)
    wave = read_audio(tmp_path / "a.wav", CONFIG)
    assert wave.shape == (4000,)
    assert log_mel(wave, CONFIG).shape == (51, 40)


def test_channels_are_averaged(tmp_path):
    sound = np.random.default_rng(0).uniform(-1, 1, (800, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    wave = read_audio(tmp_path / "a.wav", CONFIG)
    torch.testing.assert_close(wave, torch.from_numpy(sound.mean(1)))


def test_empty_clip(tmp_path):
    write_clip(tmp_path / "a.wav", 0)
    with pytest.raises(MediaError, match=r"a\.wav: the clip is empty; replace"):
        read_audio(tmp_path / "a.wav", CONFIG)


def test_long_clip(tmp_path):
    write_clip(tmp_path / "a.wav", 2)
    with pytest.raises(MediaError, match=r"2\.0 s are more than the 1 s.*--max-seconds"):
        read_audio(tmp_path / "a.wav", DataConfig(max_seconds=1))


@pytest.mark.parametrize("name", ["a.wav", "a.raw"])
def test_no_clip(tmp_path, name):
    (tmp_path / name).write_bytes(b"no sound at all")
    with pytest.raises(MediaError, match="no audio that can be read"):
        read_audio(tmp_path / name, CONFIG)


def test_samples_that_are_no_numbers(tmp_path):
    sound = np.zeros(800, np.float32)
    sound[400] = np.nan
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    with pytest.raises(MediaError, match="not finite"):
        read_audio(tmp_path / "a.wav", CONFIG)


@pytest.mark.parametrize(("source", "target"), [(44_100, 16_000), (8000, 16_000), (16_000, 11_025)])
def test_resample_keeps_a_tone(source, target):
    hertz = 1000  # a whole number of periods, so that the ends meet
    before = torch.sin(2 * torch.pi * hertz * torch.arange(source, dtype=torch.float64) / source)
    after = torch.sin(2 * torch.pi * hertz * torch.arange(target, dtype=torch.float64) / target)
    # The sine's argument reaches 2π·1000, known to 1e-12; the spectrum adds less.
    torch.testing.assert_close(resample(before, source, target), after, atol=1e-11, rtol=0)


def test_log_mel_hears_the_tone():
    wave = torch.sin(2 * torch.pi * 1500 * torch.arange(8000) / 8000)
    loudest = log_mel(wave, CONFIG)[50].argmax()
    centre = mel_bank(40, 256, 8000)[loudest].argmax() * 8000 / 256
    assert abs(centre - 1500) < 100


@pytest.mark.parametrize(("mels", "size", "rate"), [(40, 512, 16_000), (80, 256, 8000)])
def test_every_mel_band_hears_something(mels, size, rate):
    bank = mel_bank(mels, size, rate)
    assert bank.shape == (mels, size // 2 + 1)
    assert (bank.sum(1) > 0).all()
    assert (bank >= 0).all()


def test_the_row_is_named(rows, save, tmp_path):
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:60])
    manifest = read_manifest(save(rows))
    with pytest.raises(MediaError, match=r"manifest\.jsonl, line 6: .*5\.png"):
        Preprocessor.fit(manifest, range(20), CONFIG).load(manifest, range(20))


def test_long_text(rows, save):
    rows[3]["text"] = "a" * 30_000
    with pytest.raises(MediaError, match=r"line 4: .*30000 characters"):
        Preprocessor.fit(read_manifest(save(rows)), range(20), CONFIG)
