"""Whether an audio file holds all that its own container promises.

libsndfile takes a file whose end is missing for a shorter clip. Only the containers know better:

| container | what it promises |
|---|---|
| WAV | the size of its samples, in front of them |
| Ogg | a last page that is marked as the last |
| MP3 | whole frames; often also their number, in a Xing or Info header |

FLAC promises its number of samples, which libsndfile passes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Literal

_UNKNOWN = 0x7FFF_0000  # a writer that cannot go back leaves a larger size
_HEADER = 1 << 24  # bytes of a WAV file before its samples that are looked through
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes, at most
_OGG_LAST = 4  # the flag of a stream's last page

_PADDING = 1 << 16  # bytes before an MP3's first frame, at most

# kbit/s of an MPEG layer III frame by its index, for MPEG-1 and for MPEG-2 and 2.5.
_RATES_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_RATES_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_HERTZ = (44_100, 48_000, 32_000)  # of MPEG-1; MPEG-2 has half, 2.5 a quarter


def wav_is_cut(path: Path) -> bool:
    """Whether the file ends before its data chunk should."""
    length = path.stat().st_size
    with path.open("rb") as file:
        order: Literal["little", "big"] = "big" if file.read(4) == b"RIFX" else "little"
        place = 12
        while place < min(length, _HEADER):
            file.seek(place)
            name, size = file.read(4), int.from_bytes(file.read(4), order)
            if name == b"data":
                return size < _UNKNOWN and place + 8 + size > length
            place += 8 + size + 1 & ~1  # chunks begin at even places
    return False


def ogg_is_cut(path: Path) -> bool:
    """Whether the last page is incomplete, or not marked as a stream's last."""
    length = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, length - 2 * _OGG_PAGE))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return not page[5] & _OGG_LAST or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


@dataclass(frozen=True)
class Mp3:
    """What the frames of an MP3 file say."""

    samples: int  # of each channel in all complete frames; 0 where there is none to follow
    counted: bool  # a Xing or Info header gives the number of frames
    cut: bool  # the last frame is incomplete, or frames are missing


def read_mp3(path: Path, most: int) -> Mp3:
    """Follow the frames of an MP3 file (MPEG layer III), for at most about `most` samples."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        place = 0
        while data[place : place + 3] == b"ID3":  # seven bits of each byte hold the tag's size
            size = 0
            for byte in data[place + 6 : place + 10]:
                size = size << 7 | byte & 0x7F
            place += 10 + size
        place = _first_frame(data, place)
        promised = _xing_frames(data[place : place + 200])
        frames = samples = 0
        partial = False
        while samples <= most and (frame := _frame(data[place : place + 4])):
            partial = place + frame[0] > len(data)
            if partial:
                break
            place += frame[0]
            frames, samples = frames + 1, samples + frame[1]
        partial |= len(data) - place < 4 and data[place : place + 1] == b"\xff"
    if promised is None or samples > most:
        return Mp3(samples, False, partial)
    return Mp3(samples, True, partial or frames - 1 < promised)


def _first_frame(data: mmap, place: int) -> int:
    """The first place from `place` on where a frame begins that another follows, or the end."""
    for start in range(place, min(len(data), place + _PADDING)):
        frame = _frame(data[start : start + 4])
        end = start + frame[0] if frame else 0
        if frame and (end >= len(data) or _frame(data[end : end + 4])):
            return start
    return len(data)


def _frame(header: bytes) -> tuple[int, int] | None:
    """A layer III frame's bytes and samples; None where there is none, or one of free format."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version = header[1] >> 3 & 3  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    rate, hertz = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or hertz == 3 or rate in (0, 15):
        return None
    samples = 1152 if version == 3 else 576
    kilobits = (_RATES_1 if version == 3 else _RATES_2)[rate - 1]
    frequency = _HERTZ[hertz] // {3: 1, 2: 2, 0: 4}[version]
    return samples // 8 * kilobits * 1000 // frequency + (header[2] >> 1 & 1), samples


def _xing_frames(frame: bytes) -> int | None:
    """The number of frames after the first that a Xing or Info header in it gives."""
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0 or not frame[place + 7] & 1:
        return None
    return int.from_bytes(frame[place + 8 : place + 12], "big")
