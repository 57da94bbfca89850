"""Test decoding audio clips, and rejecting invalid files before the costly work."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from fastrnn.fusion import DataConfig, MediaError
from fastrnn.fusion.data.audio import log_mel, mel_bank, read_audio, resample
from fastrnn.fusion.data.truncation import _frame
from tests.fusion.conftest import write_clip
from tests.fusion.data.damage import mutated

CONFIG = DataConfig(sample_rate=8000)


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


@pytest.mark.parametrize("container", CONTAINERS)
def test_truncated_clips_are_rejected_in_every_container(tmp_path, container):
    path = tmp_path / f"a.{container.split()[0]}"
    # Longer than a block, so that the last block is shorter than requested.
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 70_000)
    soundfile.write(path, sound, 8000, **CONTAINERS[container])
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


def test_many_channels_are_read_in_blocks(tmp_path, monkeypatch):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 8))
    soundfile.write(tmp_path / "a.flac", sound, 8000)
    whole = read_audio(tmp_path / "a.flac", CONFIG)
    monkeypatch.setattr("fastrnn.fusion.data.audio._BLOCK", 77)
    assert torch.equal(read_audio(tmp_path / "a.flac", CONFIG), whole)
    soundfile.write(tmp_path / "a.wav", np.zeros((10, 17)), 8000)
    with pytest.raises(MediaError, match="17 channels; at most"):
        read_audio(tmp_path / "a.wav", CONFIG)


def test_other_audio_formats(tmp_path):
    soundfile.write(tmp_path / "a.aiff", np.zeros(100), 8000)
    (tmp_path / "a.aiff").rename(tmp_path / "a.wav")
    with pytest.raises(MediaError, match="unsupported audio format AIFF; convert"):
        read_audio(tmp_path / "a.wav", CONFIG)
