"""Detect truncated audio files from the information in their containers.

libsndfile reads a file without its end as a shorter clip. Only the container shows the truncation:

| container | declares |
|---|---|
| WAV | the size of the sample data, before the data |
| Ogg | a last page, marked as the last |
| MP3 | complete frames; often also their number, in a Xing or Info header |

FLAC declares its number of samples, which libsndfile returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Literal

_UNKNOWN = 0x7FFF_0000  # a writer that cannot seek back writes a size of at least this
_HEADER = 1 << 24  # bytes of a WAV file that are searched for the data chunk
_OGG_PAGE = 27 + 255 + 255 * 255  # maximum bytes of a page
_OGG_LAST = 4  # flag of a stream's last page

_PADDING = 1 << 16  # maximum bytes before an MP3's first frame

# Bit rates in kbit/s of MPEG layer III frames by index, for MPEG-1 and for MPEG-2 and 2.5.
_RATES_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_RATES_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_HERTZ = (44_100, 48_000, 32_000)  # MPEG-1; half of these for MPEG-2, a quarter for 2.5


def wav_is_cut(path: Path) -> bool:
    """Whether the file ends before the declared end of its data chunk."""
    length = path.stat().st_size
    with path.open("rb") as file:
        order: Literal["little", "big"] = "big" if file.read(4) == b"RIFX" else "little"
        place = 12
        while place < min(length, _HEADER):
            file.seek(place)
            name, size = file.read(4), int.from_bytes(file.read(4), order)
            if name == b"data":
                return size < _UNKNOWN and place + 8 + size > length
            place += 8 + size + 1 & ~1  # chunks start at even offsets
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
    """Length and completeness of an MP3 file, according to its frames."""

    samples: int  # samples per channel in all complete frames; 0 if no frame is found
    counted: bool  # whether a Xing or Info header gives the number of frames
    cut: bool  # whether the last frame is incomplete, or frames are missing


def read_mp3(path: Path, most: int) -> Mp3:
    """Scan the frames of an MP3 file (MPEG layer III), up to about `most` samples."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        place = 0
        while data[place : place + 3] == b"ID3":  # the tag's size has seven bits per byte
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
    """Return the first offset from `place` with a frame followed by another frame or by the end.

    Returns len(data) if there is none.
    """
    for start in range(place, min(len(data), place + _PADDING)):
        frame = _frame(data[start : start + 4])
        end = start + frame[0] if frame else 0
        if frame and (end >= len(data) or _frame(data[end : end + 4])):
            return start
    return len(data)


def _frame(header: bytes) -> tuple[int, int] | None:
    """Return (bytes, samples) of a layer III frame, or None if there is none or in free format."""
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
    """Return the number of frames after this one, from its Xing or Info header, or None."""
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0 or not frame[place + 7] & 1:
        return None
    return int.from_bytes(frame[place + 8 : place + 12], "big")
