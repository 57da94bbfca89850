"""Synthesise spoken digits by rule, without recordings: voices that say zero to nine.

A word is a sequence of sounds. Voiced sounds are harmonics of the voice's pitch, weighted by three
resonances of the vocal tract. Hissing sounds are band-limited noise. The resonances glide from
sound to sound. Voices differ in pitch, tract length, pace and breath, and all takes of a word
differ. The quality is that of a 1960s vocoder: good enough to distinguish digits, and the same on
every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RATE = 8000  # Hz
SECONDS = (0.2, 0.55)  # minimum and maximum duration of a word
_STEP = 32  # samples between two sets of resonances
_WIDTHS = np.array([90.0, 110.0, 170.0])  # bandwidths of the three resonances in Hz
_GAINS = np.array([1.0, 0.6, 0.3])

# Noise bands in Hz.
_BANDS = {"s": (2600, 4000), "f": (900, 4000), "k": (1300, 2300), "t": (2200, 3600)}


@dataclass(frozen=True)
class _Sound:
    resonances: tuple[float, float, float]  # Hz, for a tract of length 1
    voiced: float  # loudness of the harmonics
    noise: float  # loudness of the noise
    band: str
    length: float  # seconds at pace 1


_SOUNDS = {
    "AA": _Sound((730, 1090, 2440), 1.0, 0.0, "f", 0.14),
    "AH": _Sound((640, 1190, 2390), 1.0, 0.0, "f", 0.14),
    "AO": _Sound((570, 840, 2410), 1.0, 0.0, "f", 0.18),
    "EH": _Sound((530, 1840, 2480), 1.0, 0.0, "f", 0.13),
    "EY": _Sound((480, 2000, 2550), 1.0, 0.0, "f", 0.13),
    "IH": _Sound((390, 1990, 2550), 1.0, 0.0, "f", 0.13),
    "IY": _Sound((270, 2290, 3010), 0.9, 0.0, "f", 0.16),
    "OW": _Sound((450, 880, 2400), 1.0, 0.0, "f", 0.18),
    "UW": _Sound((300, 870, 2240), 0.9, 0.0, "f", 0.21),
    "F": _Sound((400, 1100, 2300), 0.0, 0.25, "f", 0.12),
    "K": _Sound((350, 1800, 2500), 0.0, 0.35, "k", 0.08),
    "N": _Sound((280, 1300, 2500), 0.45, 0.0, "f", 0.12),
    "R": _Sound((420, 1200, 1600), 0.7, 0.0, "f", 0.09),
    "S": _Sound((350, 1700, 2600), 0.0, 0.5, "s", 0.13),
    "T": _Sound((350, 1800, 2700), 0.0, 0.45, "t", 0.07),
    "TH": _Sound((380, 1400, 2500), 0.0, 0.18, "f", 0.12),
    "V": _Sound((330, 1100, 2300), 0.35, 0.1, "f", 0.08),
    "W": _Sound((310, 700, 2200), 0.6, 0.0, "f", 0.09),
    "Z": _Sound((330, 1700, 2600), 0.35, 0.3, "s", 0.10),
}

WORDS = (
    "Z IY R OW",
    "W AH N",
    "T UW",
    "TH R IY",
    "F AO R",
    "F AA IH V",
    "S IH K S",
    "S EH V AH N",
    "EY IH T",
    "N AA IH N",
)


@dataclass(frozen=True)
class Voice:
    """The parameters of a synthetic voice."""

    pitch: float  # Hz
    tract: float  # factor of all resonances; above 1 for a short tract
    pace: float  # factor of all lengths
    breath: float  # noise added to the harmonics


def voices(count: int, dice: np.random.Generator) -> list[Voice]:
    """Draw `count` voices, from men's to children's."""
    return [
        Voice(
            pitch=float(np.exp(dice.uniform(np.log(85), np.log(260)))),
            tract=float(dice.uniform(0.88, 1.18)),
            pace=float(dice.uniform(0.8, 1.25)),
            breath=float(dice.uniform(0.0, 0.08)),
        )
        for _ in range(count)
    ]


def say(digit: int, voice: Voice, dice: np.random.Generator) -> NDArray[np.float64]:
    """Synthesise one take of a digit: [samples] at RATE, with root mean square 1."""
    sounds = [_SOUNDS[name] for name in WORDS[digit].split()]
    lengths = np.array([each.length for each in sounds]) * voice.pace
    lengths *= np.exp(dice.normal(0, 0.12, len(sounds)))
    lengths *= np.clip(lengths.sum(), *SECONDS) / lengths.sum()
    steps = int(lengths.sum() * RATE) // _STEP
    at = (np.arange(steps) + 0.5) * _STEP / RATE  # [steps], seconds
    middles = np.cumsum(lengths) - lengths / 2

    # Resonances glide from the middle of one sound to the middle of the next. Loudness changes
    # faster.
    own = np.exp(dice.normal(0, 0.03, (len(sounds), 3)))
    targets = np.array([each.resonances for each in sounds]) * voice.tract * own
    tracks = np.stack([np.interp(at, middles, each) for each in targets.T], axis=1)  # [steps, 3]
    which = np.searchsorted(np.cumsum(lengths), at).clip(max=len(sounds) - 1)
    voiced = _smooth(np.array([each.voiced for each in sounds])[which])
    time = np.arange(steps * _STEP) / RATE
    wave = _harmonics(tracks, voiced, at, time, voice, dice)
    for band in sorted({each.band for each in sounds if each.noise} | {"f"}):
        loud = np.array([each.noise * (each.band == band) for each in sounds])[which]
        if band == "f":
            loud = loud + voice.breath * voiced
        wave += np.interp(time, at, _smooth(loud)) * _noise(len(time), band, dice)
    return wave / np.sqrt(np.mean(wave**2))


class Speakers:
    """Voices with `takes` takes of every digit each, synthesised on first use."""

    def __init__(self, of: list[Voice], takes: int, dice: np.random.Generator) -> None:
        self.voices = of
        self.takes = takes
        self.dice = dice
        self._said: dict[tuple[int, int, int], NDArray[np.float64]] = {}

    def any_take(self, digit: int) -> tuple[int, NDArray[np.float64]]:
        """Return a random take of the digit: (index of the voice, [samples] as `say` returns)."""
        voice, take = (int(self.dice.integers(n)) for n in (len(self.voices), self.takes))
        key = voice, digit, take
        if key not in self._said:
            self._said[key] = say(digit, self.voices[voice], self.dice)
        return voice, self._said[key]


def under_noise(
    wave: NDArray[np.float64], decibels: float, dice: np.random.Generator
) -> NDArray[np.float64]:
    """Pad a word with silence and add white noise; [samples] with root mean square about 0.15.

    Args:
        wave: [samples], with root mean square 1.
        decibels: the signal-to-noise ratio of the word in dB.
    """
    room = int((SECONDS[1] + 0.05) * RATE)
    before = int(dice.integers(room - len(wave)))
    word = np.pad(wave, (before, room - len(wave) - before))
    noise = 10 ** (-decibels / 20)
    heard = word + noise * dice.standard_normal(room)
    return heard * 0.15 / np.sqrt(1 + noise**2)


def _harmonics(
    tracks: NDArray[np.float64],
    voiced: NDArray[np.float64],
    at: NDArray[np.float64],
    time: NDArray[np.float64],
    voice: Voice,
    dice: np.random.Generator,
) -> NDArray[np.float64]:
    """Synthesise the voiced part: every harmonic below RATE / 2, weighted by the resonances."""
    fall, lift = dice.uniform(0.75, 0.95), dice.uniform(0.95, 1.1)
    pitch = voice.pitch * lift * np.linspace(1, fall, len(time))  # falling intonation
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    middle = np.interp(at, time, pitch)  # [steps]
    # np.interp(time, at, ...) for every harmonic, with the common factors computed once.
    place = np.interp(time, at, np.arange(len(at)))
    left = place.astype(int)
    right, share = np.minimum(left + 1, len(at) - 1), place - left
    # sin(n p) = 2 cos(p) sin((n - 1) p) - sin((n - 2) p)
    twice, before, sine = 2 * np.cos(phase), np.zeros_like(time), np.sin(phase)
    wave = np.zeros_like(time)
    for number in range(1, int(RATE / 2 / pitch.max())):
        away = (number * middle[:, None] - tracks) / (_WIDTHS / 2)  # [steps, 3]
        loud = (_GAINS / np.sqrt(1 + away**2)).sum(1) * voiced / number**0.4
        wave += (loud[left] * (1 - share) + loud[right] * share) * sine
        before, sine = sine, twice * sine - before
    return wave


def _noise(samples: int, band: str, dice: np.random.Generator) -> NDArray[np.float64]:
    """Return band-limited noise with root mean square 1."""
    spectrum = np.fft.rfft(dice.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / RATE)
    low, high = _BANDS[band]
    wave = np.fft.irfft(spectrum * ((frequency >= low) & (frequency <= high)), n=samples)
    return wave / np.sqrt(np.mean(wave**2))


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth loudness over 20 ms, so that no sound starts abruptly."""
    kernel = np.hanning(7)[1:-1]
    return np.convolve(np.pad(values, 2, mode="edge"), kernel / kernel.sum(), mode="valid")
