"""Decode images to pixels.

The files are untrusted, so their sizes are read and limited before anything is decoded.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..config.schema import DataConfig
from ..errors import MediaError

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read_image(path: Path, config: DataConfig) -> np.ndarray:
    """Read an image and resize it to a square, ignoring its aspect ratio.

    Transparent parts become white.

    Returns:
        uint8 [C, S, S], C = image_channels, S = image_size.

    Raises:
        MediaError: not PNG, JPEG, WEBP or BMP; too large; damaged; more than 8 bits per channel.
    """
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
                size = (config.image_size, config.image_size)
                upright = _on_white(ImageOps.exif_transpose(image))
                wanted = upright.convert("L" if config.image_channels == 1 else "RGB")
                pixels = np.array(wanted.resize(size, Image.Resampling.BILINEAR))
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
    return np.ascontiguousarray(pixels.reshape(*size, -1).transpose(2, 0, 1))


def _on_white(image: Image.Image) -> Image.Image:
    """Return the image over a white background, or unchanged if nothing is transparent."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image)
