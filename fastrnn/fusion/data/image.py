"""Decode images to pixels.

The files are untrusted, so their sizes are read and limited before anything is decoded.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..config.preprocessing import ImagePreprocessing
from ..config.schema import DataConfig
from ..errors import MediaError

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read_image(
    path: Path, config: DataConfig, wanted: ImagePreprocessing | None = None
) -> np.ndarray:
    """Read an image and resize it, by default to a square, ignoring its aspect ratio.

    Transparent parts become white.

    Returns:
        uint8 [C, height, width]; by default both are image_size, and C is image_channels.

    Raises:
        MediaError: not PNG, JPEG, WEBP or BMP; too large; damaged; more than 8 bits per channel.
    """
    wanted = wanted or ImagePreprocessing(
        config.image_size, config.image_size, config.image_channels
    )
    try:
        with warnings.catch_warnings():
            # Pillow warns about bombs, which the limit below rejects, and about damaged metadata.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > config.max_pixels:
                    raise MediaError(
                        f"{path}: {width}×{height} pixels are more than the {config.max_pixels} "
                        "allowed; resize the image"
                    )
                if image.mode not in _EIGHT_BIT:
                    raise MediaError(
                        f"{path}: unsupported image mode {image.mode}; save the image with 8 bits "
                        "per channel"
                    )
                upright = _on_white(ImageOps.exif_transpose(image))
                upright = upright.convert("L" if wanted.channels == 1 else "RGB")
                pixels = np.array(_resized(upright, wanted, config.max_pixels))
    except Image.DecompressionBombError:
        raise MediaError(f"{path}: the image has far too many pixels; resize it") from None
    except Image.UnidentifiedImageError:
        raise MediaError(f"{path}: not a PNG, JPEG, WEBP or BMP image; convert it") from None
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # Pillow may raise almost any exception on a damaged file
        raise MediaError(
            f"{path}: the image is damaged ({error}); replace the file, or remove the row"
        ) from None
    shape = (wanted.height, wanted.width, -1)
    return np.ascontiguousarray(pixels.reshape(shape).transpose(2, 0, 1))


def _resized(image: Image.Image, wanted: ImagePreprocessing, most: int) -> Image.Image:
    """Return an image in the wanted size."""
    resample = Image.Resampling[wanted.resample.upper()]
    if not wanted.shortest_edge:
        return image.resize((wanted.width, wanted.height), resample)
    edge, short = wanted.shortest_edge, min(image.size)
    # The longer side is rounded down, as in torchvision.
    width, height = (int(edge * side / short) for side in image.size)
    if width * height > most:
        raise MediaError(
            f"an image of {image.width}×{image.height} pixels would become one of "
            f"{width}×{height}; crop it"
        )
    rounded = round if wanted.crop_offset == "even" else math.floor
    left, top = rounded((width - wanted.width) / 2), rounded((height - wanted.height) / 2)
    box = (left, top, left + wanted.width, top + wanted.height)
    return image.resize((width, height), resample).crop(box)


def _on_white(image: Image.Image) -> Image.Image:
    """Return the image over a white background, or unchanged if nothing is transparent."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image)
