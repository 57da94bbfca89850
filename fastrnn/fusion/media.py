"""Files to tensors: an image to pixels, a clip to samples to log-mel frames.

Anyone may have made the files, so sizes are read and capped before anything is decoded.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .config import DataConfig
from .errors import MediaError

_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_AUDIO_FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")
_MAX_RATE = 384_000  # Hz; a header that claims more could pass a long clip off as a short one
_MAX_CHANNELS = 16
_BLOCK = 1 << 16  # frames that are read at a time


def read_image(path: Path, config: DataConfig) -> Tensor:
    """One image, resized to a square whatever its proportions.

    Returns:
        uint8 [C, S, S], C = image_channels, S = image_size.

    Raises:
        MediaError: not PNG, JPEG, WEBP or BMP; too large; damaged; more than 8 bits a channel.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a bomb; the cap below refuses it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_IMAGE_FORMATS)
        with image:
            width, height = image.size
            if width * height > config.max_pixels:
                raise MediaError(
                    f"{path}: {width}×{height} pixels are more than the {config.max_pixels} "
                    "allowed; make the image smaller"
                )
            if image.mode not in _EIGHT_BIT:
                raise MediaError(f"{path}: an image of mode {image.mode}; save it with 8 bits")
            size = (config.image_size, config.image_size)
            upright = ImageOps.exif_transpose(image)
            wanted = upright.convert("L" if config.image_channels == 1 else "RGB")
            pixels = np.array(wanted.resize(size, Image.Resampling.BILINEAR))
    except Image.DecompressionBombError:
        raise MediaError(f"{path}: far too many pixels; make the image smaller") from None
    except Image.UnidentifiedImageError:
        raise MediaError(f"{path}: not a PNG, JPEG, WEBP or BMP image; convert it") from None
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        raise MediaError(
            f"{path}: the image is damaged ({error}); replace the file, or remove the row"
        ) from None
    return torch.from_numpy(pixels.reshape(*size, -1)).permute(2, 0, 1).contiguous()


def read_audio(path: Path, config: DataConfig) -> Tensor:
    """One clip, its channels averaged, at the configured rate.

    Returns:
        float32 [samples], nominally within ±1.

    Raises:
        MediaError: no audio, empty, too long, damaged, or with samples that are no numbers.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate, seconds = file.samplerate, file.frames / file.samplerate
            if file.format not in _AUDIO_FORMATS:
                raise MediaError(f"{path}: audio of kind {file.format}; convert it to WAV or FLAC")
            if rate > _MAX_RATE or file.channels > _MAX_CHANNELS:
                raise MediaError(
                    f"{path}: {rate} Hz and {file.channels} channels; at most {_MAX_RATE} Hz and "
                    f"{_MAX_CHANNELS} channels are read"
                )
            if seconds > config.max_seconds:
                raise MediaError(
                    f"{path}: {seconds:.1f} s are more than the {config.max_seconds:g} s allowed; "
                    "cut the clip, or raise --max-seconds"
                )
            if _cut_off(path):
                raise MediaError(f"{path}: the end of the clip is missing; replace the file")
            # A piece at a time: of many channels only the mean is kept, and not for longer than
            # was allowed, whatever the header said.
            longest = math.ceil(config.max_seconds * rate)
            pieces = [np.zeros(0, np.float32)]
            for piece in file.blocks(_BLOCK, dtype="float32", always_2d=True):
                with np.errstate(invalid="ignore"):  # infinities are refused below
                    pieces.append(piece.mean(axis=1))
                longest -= len(piece)
                if longest < 0:
                    raise MediaError(f"{path}: the clip is longer than its header says; replace it")
            samples = np.concatenate(pieces)
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # soundfile's own, and TypeError for a name ending in .raw
        raise MediaError(
            f"{path}: no audio that can be read ({error}); replace the file, or remove the row"
        ) from None
    if not len(samples):
        raise MediaError(f"{path}: the clip is empty; replace the file, or remove the row")
    wave = torch.from_numpy(samples)
    if not bool(torch.isfinite(wave).all()):
        raise MediaError(f"{path}: some samples are not finite numbers; replace the file")
    return resample(wave, rate, config.sample_rate)


def _cut_off(path: Path) -> bool:
    """A WAV file is shorter than its header says, which libsndfile takes for a shorter clip.

    Writers that cannot go back to the header leave 0 or the largest size there.
    """
    with path.open("rb") as file:
        header = file.read(8)
    size = int.from_bytes(header[4:], "little")
    # One byte of padding at the end may be missing.
    return header[:4] == b"RIFF" and 0 < size < 0x7FFF_0000 and size + 7 > path.stat().st_size


def resample(wave: Tensor, source: int, target: int) -> Tensor:
    """Band-limited resampling of [n] from `source` to `target` Hz, through its spectrum."""
    if source == target:
        return wave
    length = max(1, round(len(wave) * target / source))
    spectrum = torch.fft.rfft(wave)
    # irfft cuts the spectrum, or fills it with zeros; its 1/length replaces rfft's length.
    return torch.fft.irfft(spectrum, n=length) * (length / len(wave))


def log_mel(wave: Tensor, config: DataConfig) -> Tensor:
    """Log-mel frames [F, mels] of a clip [samples], with F = 1 + samples // hop.

    Natural logarithm of the mel energies; silence is -11.5, not -inf.
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
    return (mel_bank(config.mels, size, config.sample_rate) @ energy + 1e-5).log().t().contiguous()


@lru_cache(maxsize=8)
def mel_bank(mels: int, size: int, rate: int) -> Tensor:
    """Triangular filters [mels, size // 2 + 1], evenly spaced in mel from 0 to rate / 2."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2) / 2595) - 1)  # Hz
    frequency = torch.linspace(0, rate / 2, size // 2 + 1)
    rise = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    bank = torch.minimum(rise, fall).clamp_min(0)
    # A low band can be narrower than the grid: it reads the frequency nearest to its centre.
    empty = bank.sum(1) == 0
    nearest = (frequency - edges[1:-1, None]).abs().argmin(1)
    bank[empty, nearest[empty]] = 1
    return bank
