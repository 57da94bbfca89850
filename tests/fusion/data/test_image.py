"""Test decoding images and audio clips, and rejecting invalid files before the costly work."""

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
from fastrnn.fusion.data.media import log_mel, mel_bank, read_audio, read_image, resample
from fastrnn.fusion.data.truncation import _frame

from ..conftest import write_clip, write_image

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


def test_too_many_pixels_are_rejected_by_the_header(tmp_path):
    def chunk(problem_type: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data))
            + problem_type
            + data
            + struct.pack(">I", zlib.crc32(problem_type + data))
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
    assert found[..., :7].eq(0).all()
    assert found[..., 9:].eq(255).all()
    assert not recwarn.list


def test_half_transparent_ink_is_half_grey(tmp_path):
    Image.new("RGBA", (16, 16), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", CONFIG).eq(127).all()


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


def test_clip(tmp_path):
    write_clip(tmp_path / "a.wav", 0.5)
    wave = read_audio(tmp_path / "a.wav", CONFIG)
    assert wave.shape == (4000,)
    assert log_mel(wave, CONFIG).shape == (51, 40)


def test_truncated_clip(tmp_path):
    write_clip(tmp_path / "a.wav", 0.5)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[:-1000])
    with pytest.raises(MediaError, match=r"a\.wav: the end of the clip is missing; replace"):
        read_audio(tmp_path / "a.wav", CONFIG)
    for size in (0, 0xFFFF_FFFF):  # a program that writes to a pipe leaves these sizes
        (tmp_path / "a.wav").write_bytes(data[:4] + size.to_bytes(4, "little") + data[8:])
        assert len(read_audio(tmp_path / "a.wav", CONFIG)) == 4000


CONTAINERS = {
    "mp3": {},
    "mp3 of one rate": {"bitrate_mode": "CONSTANT", "compression_level": 0.5},
    "ogg": {},
    "ogg with opus": {"subtype": "OPUS"},
    "flac": {},
    "wav": {},
    "wav with adpcm": {"subtype": "MS_ADPCM"},
    "wav with extensible header": {"format": "WAVEX"},
}


@pytest.mark.parametrize("problem_type", CONTAINERS)
def test_truncated_clips_are_rejected_in_every_container(tmp_path, problem_type):
    path = tmp_path / f"a.{problem_type.split()[0]}"
    # Longer than a block, so that the last block is shorter than requested.
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 70_000)
    soundfile.write(path, sound, 8000, **CONTAINERS[problem_type])
    assert abs(len(read_audio(path, CONFIG)) - 70_000) <= 1000
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.9, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(MediaError, match=r"end of the clip is missing|audio cannot be read"):
            read_audio(path, CONFIG)


def test_an_mp3_truncated_at_any_place_is_rejected(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 1500), 8000)
    data = path.read_bytes()
    for length in range(400, len(data), 29):
        path.write_bytes(data[:length])
        with pytest.raises(MediaError):
            read_audio(path, CONFIG)


def without_xing(data: bytes) -> bytes:
    """Remove the first frame of an MP3 file, which contains the number of the others."""
    length = _frame(data[:4])
    assert length is not None
    return data[length[0] :]


def test_an_mp3_without_its_length(tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000) * np.linspace(0, 1, 40_000)
    options = CONTAINERS["mp3 of one rate"]
    soundfile.write(tmp_path / "a.mp3", sound, 8000, **options)
    data = without_xing((tmp_path / "a.mp3").read_bytes())
    (tmp_path / "a.mp3").write_bytes(data)
    assert 40_000 <= len(read_audio(tmp_path / "a.mp3", CONFIG)) <= 42_500
    (tmp_path / "a.mp3").write_bytes(data[:-10])
    with pytest.raises(MediaError, match="the end of the clip is missing"):
        read_audio(tmp_path / "a.mp3", CONFIG)
    # libsndfile estimates the length from the first frame, which is small here.
    soundfile.write(tmp_path / "b.mp3", sound, 8000)
    (tmp_path / "b.mp3").write_bytes(without_xing((tmp_path / "b.mp3").read_bytes()))
    with pytest.raises(MediaError, match=r"not give the length of the clip; convert it to WAV"):
        read_audio(tmp_path / "b.mp3", CONFIG)


def test_a_flac_without_its_length(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(800), 8000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])  # the number of samples
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(MediaError, match="does not give the length"):
        read_audio(tmp_path / "a.flac", CONFIG)


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "ULAW", "ALAW", "IMA_ADPCM"])
def test_wav_codecs(tmp_path, subtype):
    sound = 0.5 * np.sin(np.arange(70_000) / 5)
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype=subtype)
    wave = read_audio(tmp_path / "a.wav", CONFIG)
    assert 70_000 <= len(wave) <= 70_400  # a codec pads to its own block size
    assert np.corrcoef(wave[:70_000], sound)[0, 1] > 0.95


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
def test_a_file_that_is_not_audio(tmp_path, name):
    (tmp_path / name).write_bytes(b"no sound at all")
    with pytest.raises(MediaError, match="the audio cannot be read"):
        read_audio(tmp_path / name, CONFIG)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 1e300])
def test_samples_that_are_not_finite_or_too_large(tmp_path, value):
    sound = np.zeros(800)
    sound[400] = value
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="DOUBLE")
    with pytest.raises(MediaError, match="not finite"):
        read_audio(tmp_path / "a.wav", CONFIG)


@pytest.mark.parametrize(("source", "target"), [(44_100, 16_000), (8000, 16_000), (16_000, 11_025)])
def test_resample_keeps_a_tone(source, target):
    hertz = 1000  # a whole number of periods, so that the signal is periodic
    before = torch.sin(2 * torch.pi * hertz * torch.arange(source, dtype=torch.float64) / source)
    after = torch.sin(2 * torch.pi * hertz * torch.arange(target, dtype=torch.float64) / target)
    # The sine's argument reaches 2π·1000, with an error of 1e-12; the spectrum adds less.
    torch.testing.assert_close(resample(before, source, target), after, atol=1e-11, rtol=0)


def test_log_mel_peaks_at_the_tone():
    wave = torch.sin(2 * torch.pi * 1500 * torch.arange(8000) / 8000)
    loudest = log_mel(wave, CONFIG)[50].argmax()
    centre = mel_bank(40, 256, 8000)[loudest].argmax() * 8000 / 256
    assert abs(centre - 1500) < 100


@pytest.mark.parametrize(("mels", "size", "rate"), [(40, 512, 16_000), (80, 256, 8000)])
def test_every_mel_band_has_weight(mels, size, rate):
    bank = mel_bank(mels, size, rate)
    assert bank.shape == (mels, size // 2 + 1)
    assert (bank.sum(1) > 0).all()
    assert (bank >= 0).all()


def test_the_error_names_the_row(rows, save, tmp_path):
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:60])
    manifest = read_manifest(save(rows))
    with pytest.raises(MediaError, match=r"manifest\.jsonl, line 6: .*5\.png"):
        Preprocessor.fit(manifest, range(20), CONFIG).load(manifest, range(20))


def test_long_text(rows, save):
    rows[3]["text"] = "a" * 30_000
    with pytest.raises(MediaError, match=r"line 4: .*30000 characters"):
        Preprocessor.fit(read_manifest(save(rows)), range(20), CONFIG)


def mutated(data: bytes, times: int, seed: int = 0) -> Iterator[bytes]:
    """Yield damaged copies: with changed bytes, a missing piece, or a missing end."""
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


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_damaged_clips_are_rejected_or_read(tmp_path, ending):
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
    # One colour, 13,000 × 13,000 pixels: the header is rejected before the canvas is filled.
    (tmp_path / "a.webp").write_bytes(bytes.fromhex(WEBP_BOMB))
    with pytest.raises(MediaError, match="13000×13000 pixels are more than the 40000000 allowed"):
        read_image(tmp_path / "a.webp", DataConfig())


def test_many_channels_are_read_in_blocks(tmp_path, monkeypatch):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 8))
    soundfile.write(tmp_path / "a.flac", sound, 8000)
    whole = read_audio(tmp_path / "a.flac", CONFIG)
    monkeypatch.setattr("fastrnn.fusion.data.media._BLOCK", 77)
    assert torch.equal(read_audio(tmp_path / "a.flac", CONFIG), whole)
    soundfile.write(tmp_path / "a.wav", np.zeros((10, 17)), 8000)
    with pytest.raises(MediaError, match="17 channels; at most"):
        read_audio(tmp_path / "a.wav", CONFIG)


def test_other_audio_formats(tmp_path):
    soundfile.write(tmp_path / "a.aiff", np.zeros(100), 8000)
    (tmp_path / "a.aiff").rename(tmp_path / "a.wav")
    with pytest.raises(MediaError, match="unsupported audio format AIFF; convert"):
        read_audio(tmp_path / "a.wav", CONFIG)
