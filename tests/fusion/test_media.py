"""Decoding images and clips: what comes out, and what is refused before it costs anything."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from fastrnn.fusion import DataConfig, MediaError, Preprocessor, read_manifest
from fastrnn.fusion.media import log_mel, mel_bank, read_audio, read_image, resample

from .conftest import write_clip, write_image

CONFIG = DataConfig(image_size=16, sample_rate=8000)

WEBP_BOMB = "524946461a000000574542505650384c0e0000002fc7f2b10c071011fd0f4444ff03"


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


def test_a_clip_that_was_cut_off(tmp_path):
    write_clip(tmp_path / "a.wav", 0.5)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[:-1000])
    with pytest.raises(MediaError, match=r"a\.wav: the end of the clip is missing; replace"):
        read_audio(tmp_path / "a.wav", CONFIG)
    for size in (0, 0xFFFF_FFFF):  # as a pipe leaves it
        (tmp_path / "a.wav").write_bytes(data[:4] + size.to_bytes(4, "little") + data[8:])
        assert len(read_audio(tmp_path / "a.wav", CONFIG)) == 4000


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


def mutated(data: bytes, times: int, seed: int = 0) -> Iterator[bytes]:
    """Some bytes changed, or a piece taken out, or the end cut off."""
    dice = np.random.default_rng(seed)
    for number in range(times):
        noise = bytearray(data)
        if number % 3 == 0:
            for place in dice.integers(0, len(data), 1 + number % 8):
                noise[place] = dice.integers(256)
        elif number % 3 == 1:
            begin = dice.integers(0, len(data))
            del noise[begin : begin + dice.integers(1, 64)]
        else:
            del noise[dice.integers(0, len(data)) :]
        yield bytes(noise)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_damaged_images_are_refused_or_read(tmp_path, ending, mode):
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
    assert len(refusals) >= 20  # those that were cut off, at least
    assert all(str(path) in each for each in refusals)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_damaged_clips_are_refused_or_read(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2000, 2))
    soundfile.write(path, sound, 8000)
    assert len(read_audio(path, CONFIG)) >= 2000
    config = DataConfig(sample_rate=8000, max_seconds=2)
    refusals: list[str] = []
    for noise in mutated(path.read_bytes(), 60):
        path.write_bytes(noise)
        try:
            wave = read_audio(path, config)
        except MediaError as error:
            refusals.append(str(error))
        else:
            assert 0 < len(wave) <= 2 * 8000 + 1
            assert torch.isfinite(wave).all()
    assert refusals
    assert all(str(path) in each for each in refusals)


def test_a_webp_of_34_bytes(tmp_path):
    # One colour, 13,000 pixels a side: the header is refused before its canvas is filled.
    (tmp_path / "a.webp").write_bytes(bytes.fromhex(WEBP_BOMB))
    with pytest.raises(MediaError, match="13000×13000 pixels are more than the 40000000 allowed"):
        read_image(tmp_path / "a.webp", DataConfig())


def test_many_channels_are_kept_a_piece_at_a_time(tmp_path, monkeypatch):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 8))
    soundfile.write(tmp_path / "a.flac", sound, 8000)
    whole = read_audio(tmp_path / "a.flac", CONFIG)
    monkeypatch.setattr("fastrnn.fusion.media._BLOCK", 77)
    assert torch.equal(read_audio(tmp_path / "a.flac", CONFIG), whole)
    soundfile.write(tmp_path / "a.wav", np.zeros((10, 17)), 8000)
    with pytest.raises(MediaError, match="17 channels; at most"):
        read_audio(tmp_path / "a.wav", CONFIG)


def test_other_audio_formats(tmp_path):
    soundfile.write(tmp_path / "a.aiff", np.zeros(100), 8000)
    (tmp_path / "a.aiff").rename(tmp_path / "a.wav")
    with pytest.raises(MediaError, match="audio of kind AIFF; convert it"):
        read_audio(tmp_path / "a.wav", CONFIG)
