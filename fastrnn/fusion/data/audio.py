"""Decode audio clips to samples and log-mel frames.

The files are untrusted, so their sizes are read and limited before anything is decoded.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from ..config.schema import DataConfig
from ..errors import MediaError
from ..strings import plural
from .truncation import ogg_is_cut, read_mp3, wav_is_cut

_FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")
_MAX_RATE = 384_000  # Hz; with a higher rate in its header, a long clip could pass for a short one
_MAX_CHANNELS = 16
_BLOCK = 1 << 16  # frames read at a time
_LOUDEST = 1e12  # the square of a spectrum of larger samples may overflow float32
_NO_LENGTH = 1 << 40  # libsndfile reports more frames than this if the header gives no length
_GUESS = 0.98  # share of an MP3's true length that an estimate from its first frame must reach
_FLOOR = 1e-5  # added to mel energies
SILENCE = math.log(_FLOOR)  # each value of a log-mel frame of digital silence, -11.5


def read_audio(path: Path, config: DataConfig) -> Tensor:
    """Read an audio clip, average its channels and resample it to the configured rate.

    Returns:
        float32 [samples], nominally within ±1.

    Raises:
        MediaError: not audio, empty, too long, truncated, damaged, or with samples that are not
            finite.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            _check_kind(path, file)
            promised = _promised(path, file, config)
            samples = _read_samples(file, math.ceil(config.max_seconds * rate))
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # soundfile's own, or TypeError for a name ending in .raw
        raise MediaError(
            f"{path}: the audio cannot be read ({error}); replace the file, or remove the row"
        ) from None
    if len(samples) < promised:
        raise _cut(path)
    if not len(samples):
        raise MediaError(f"{path}: the clip is empty; replace the file, or remove the row")
    if len(samples) > config.max_seconds * rate + 1:
        raise MediaError(f"{path}: the clip is longer than its header says; replace the file")
    if not np.abs(samples).max() <= _LOUDEST:  # "not" also refuses NaN
        raise MediaError(
            f"{path}: some samples are not finite numbers, or are beyond ±{_LOUDEST:g}; "
            "replace the file"
        )
    return resample(torch.from_numpy(samples), rate, config.sample_rate)


def _check_kind(path: Path, file: soundfile.SoundFile) -> None:
    if file.format not in _FORMATS:
        raise MediaError(
            f"{path}: unsupported audio format {file.format}; convert the clip to WAV or FLAC"
        )
    if file.samplerate > _MAX_RATE or file.channels > _MAX_CHANNELS:
        raise MediaError(
            f"{path}: the clip has {file.samplerate} Hz and {plural(file.channels, 'channel')}; at "
            f"most {_MAX_RATE} Hz and {_MAX_CHANNELS} channels are supported; convert it"
        )


def _promised(path: Path, file: soundfile.SoundFile, config: DataConfig) -> int:
    """Return the minimum number of samples of the complete clip.

    Raises:
        MediaError: it is too long, its end is missing, or the file does not give its length.
    """
    frames, cut, guessed = file.frames, False, False
    if file.format in ("WAV", "WAVEX"):
        cut = wav_is_cut(path)
    elif file.format == "OGG":
        cut = ogg_is_cut(path)
    elif file.format == "MP3":
        mp3 = read_mp3(path, most=math.ceil(10 * config.max_seconds * file.samplerate))
        cut, guessed = mp3.cut, not mp3.counted
        if guessed:
            # libsndfile reads the first frame only, and assumes that all have its size.
            if frames < _GUESS * mp3.samples or not mp3.samples:
                raise _unknown_length(path)
            frames = min(frames, mp3.samples)
    if frames >= _NO_LENGTH:
        raise _unknown_length(path)
    seconds = frames / file.samplerate
    if seconds > config.max_seconds:
        raise MediaError(
            f"{path}: {seconds:.1f} s are more than the {config.max_seconds:g} s allowed; "
            "shorten the clip, or raise --max-seconds"
        )
    if cut:
        raise _cut(path)
    return math.floor(_GUESS * frames) if guessed else frames


def _read_samples(file: soundfile.SoundFile, longest: int) -> np.ndarray:
    """Read the mean of all channels, float32 [samples], at most one block more than `longest`.

    Reading in blocks bounds the memory: only the mean of the channels is kept, and no more than
    allowed, whatever the header says. A block may be shorter than requested.
    """
    blocks = [np.zeros(0, np.float32)]
    while longest >= 0:
        block = file.read(_BLOCK, dtype="float32", always_2d=True)
        if not len(block):
            break
        with np.errstate(invalid="ignore"):  # infinities are rejected later
            blocks.append(block.mean(axis=1))
        longest -= len(block)
    return np.concatenate(blocks)


def _cut(path: Path) -> MediaError:
    return MediaError(f"{path}: the end of the clip is missing; replace the file")


def _unknown_length(path: Path) -> MediaError:
    return MediaError(
        f"{path}: the file does not give the length of the clip; convert it to WAV or FLAC"
    )


def resample(wave: Tensor, source: int, target: int) -> Tensor:
    """Resample a signal [n] from `source` to `target` Hz, band-limited, through its spectrum."""
    if source == target:
        return wave
    length = max(1, round(len(wave) * target / source))
    spectrum = torch.fft.rfft(wave)
    # irfft truncates or zero-pads the spectrum, and scales by 1 / length instead of 1 / len(wave).
    return torch.fft.irfft(spectrum, n=length) * (length / len(wave))


def log_mel(wave: Tensor, config: DataConfig) -> Tensor:
    """Compute the log-mel frames [F, mels] of a clip [samples], with F = 1 + samples // hop.

    Values are natural logarithms of the mel energies; SILENCE, not -inf, is that of 0.
    """
    window = round(config.sample_rate * config.window_ms / 1000)
    hop = round(config.sample_rate * config.hop_ms / 1000)
    size = 1 << max(1, math.ceil(math.log2(window)))
    spectrum = torch.stft(
        wave,
        size,
        hop_length=hop,
        win_length=window,
        window=torch.hann_window(window),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )  # [size // 2 + 1, F]
    energy = spectrum.real.square() + spectrum.imag.square()
    return (
        (mel_bank(config.mels, size, config.sample_rate) @ energy + _FLOOR).log().t().contiguous()
    )


@lru_cache(maxsize=8)
def mel_bank(mels: int, size: int, rate: int) -> Tensor:
    """Return triangular filters [mels, size // 2 + 1], evenly spaced in mel from 0 to rate / 2."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2) / 2595) - 1)  # Hz
    frequency = torch.linspace(0, rate / 2, size // 2 + 1)
    rise = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    bank = torch.minimum(rise, fall).clamp_min(0)
    # A low band can be narrower than the grid; it then reads the frequency nearest to its centre.
    empty = bank.sum(1) == 0
    nearest = (frequency - edges[1:-1, None]).abs().argmin(1)
    bank[empty, nearest[empty]] = 1
    return bank
