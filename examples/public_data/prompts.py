"""The prompts of the telephone exchange Asterisk: a recording and its transcript; the language.

2,700 prompts in English, French, Italian, Russian and Spanish, from the packages
asterisk-core-sounds-*. The name of a prompt is its group: its five recordings stay in one split.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

from .debian import Package, unpack

_VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
_SHA256 = {
    "en": "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    "en-wav": "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    "es": "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
    "es-wav": "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903",
    "fr": "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
    "fr-wav": "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
    "it": "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
    "it-wav": "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
    "ru": "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
    "ru-wav": "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201",
}
PACKAGES = tuple(
    Package(f"a/asterisk-core-sounds/asterisk-core-sounds-{name}_1.6.1-1_all.deb", sha256)
    for name, sha256 in _SHA256.items()
)


def make(folder: Path) -> Path:
    """Download the prompts to `folder` and write their manifest; return its path."""
    unpack(PACKAGES, folder)
    manifest = folder / "prompts.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["recording", "transcript", "prompt", "label"])
        for language, voice in _VOICES.items():
            for name, transcript in _transcripts(folder, language).items():
                recording = folder / "usr/share/asterisk/sounds" / voice / f"{name}.wav"
                if recording.exists():
                    table.writerow([recording.relative_to(folder), transcript, name, language])
    return manifest


def _transcripts(folder: Path, language: str) -> dict[str, str]:
    """Read the lines NAME: TRANSCRIPT; one that starts with ";" is a comment."""
    name = f"asterisk-core-sounds-{language}"
    path = folder / "usr/share/doc" / name / f"core-sounds-{language}.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line and line[:1] != ";")
    return {name.strip(): text.strip() for name, _, text in pairs}
