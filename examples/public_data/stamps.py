"""The stamps of Tux Paint: a picture, its description and its spoken description; the folder.

703 drawings and photographs from the package tuxpaint-stamps-default, in 8 folders: animals, food,
household, plants, seasonal, symbols, town and vehicles. Folders with fewer stamps are left out. A
stamp's description is in English. It is spoken in French for most stamps; the others have no clip.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from .debian import Package, unpack

PACKAGES = (
    Package(
        "t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    ),
)
_STAMPS = "usr/share/tuxpaint/stamps"
_LEAST = 30  # stamps of a label


def make(folder: Path) -> Path:
    """Download the stamps to `folder` and write their manifest; return its path."""
    unpack(PACKAGES, folder)
    root = folder / _STAMPS
    pictures = [each for each in sorted(root.rglob("*.png")) if each.with_suffix(".txt").exists()]
    labels = {each: each.relative_to(root).parts[0] for each in pictures}
    count = Counter(labels.values())
    manifest = folder / "stamps.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["picture", "description", "spoken", "label"])
        for picture in pictures:
            if count[labels[picture]] < _LEAST:
                continue
            clip = picture.with_name(f"{picture.stem}_desc_fr.ogg")
            description = picture.with_suffix(".txt").read_text(encoding="utf-8")
            table.writerow(
                [
                    picture.relative_to(folder),
                    description.splitlines()[0],
                    clip.relative_to(folder) if clip.exists() else "",
                    labels[picture],
                ]
            )
    return manifest
