"""Image files as arrays: one size, grey or colour, by one named filter."""

import os
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from lml_jax.checks import check_positive, known

Channels: TypeAlias = Literal["grey", "colour"]
FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
FORMATS = ("PNG", "JPEG")  # what is decoded; a file that says to be anything else is refused
_MOST_PIXELS = 50_000_000  # of one file: 150 MB decoded


class ChannelsError(ValueError):
    """An image has other channels than were asked for."""


class Pixels(NamedTuple):
    """How an image file becomes an array of uint8.

    Attributes:
        size: (H, W) in pixels, each at least 1; a file of another size is resized, its aspect ratio
            is not kept.
        channels: "grey" for [H, W], "colour" for [H, W, 3].
        filter: of the resizing, a name in `FILTERS`.
        invert: 255 - x, for dark ink on bright paper where ink should be bright.
        strict: refuse a coloured file where `channels` is "grey", instead of taking its luminance.
    """

    size: tuple[int, int] = (28, 28)
    channels: Channels = "grey"
    filter: str = "lanczos"
    invert: bool = False
    strict: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return (*self.size, 3) if self.channels == "colour" else self.size


PIXELS = Pixels()


def check_pixels(pixels: Pixels) -> None:
    """Raise ValueError for a size below 1, or an unknown filter or kind of channels.

    Example:
        >>> check_pixels(Pixels(filter="lanzcos"))
        Traceback (most recent call last):
        ...
        ValueError: unknown filter 'lanzcos'; did you mean 'lanczos'? Known: nearest, box, \
bilinear, hamming, bicubic, lanczos
    """
    known(pixels.filter, FILTERS, what="filter")
    known(pixels.channels, ("grey", "colour"), what="kind of channels")
    check_positive(height=pixels.size[0], width=pixels.size[1])


def read_image(source: Any, pixels: Pixels) -> np.ndarray:
    """One image as uint8 of `pixels.shape`.

    The orientation that a camera noted is applied, transparent parts are on white, and 16-bit
    grey values are scaled to 8. Pillow images of mode I or F have values in 0..255.

    Args:
        source: a path, an open binary file, or a Pillow image.
        pixels: size, channels and filter.

    Returns:
        uint8 [H, W] or [H, W, 3].

    Raises:
        ValueError: naming the file, if it cannot be read as a PNG or JPEG; if it has more than 50
            million pixels; if it is coloured and `pixels` is strictly grey.

    Example:
        >>> from PIL import Image
        >>> read_image(Image.new("L", (8, 4), 7), Pixels(size=(2, 2))).tolist()
        [[7, 7], [7, 7]]
    """
    from PIL import Image, ImageOps

    check_pixels(pixels)
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "an image"
    try:
        image: Any = source if isinstance(source, Image.Image) else _opened(source)
        # Some versions of Pillow open 16-bit grey as "I", which else is of 8-bit values here.
        deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"it has {image.width} x {image.height} pixels, more than 50 million")
        image = ImageOps.exif_transpose(image)
        colour = _as_colour(image, deep=deep)
    # A damaged file raises OSError, SyntaxError, struct.error and others.
    except Exception as error:
        raise ValueError(f"{name} cannot be read as a PNG or JPEG image: {error}") from error
    if pixels.channels == "grey":
        if pixels.strict and is_coloured(colour):
            raise ChannelsError(f"{name} has 3 channels (it is in colour), expected 1: grey images")
        colour = colour.convert("L")
    elif colour.mode == "L":
        colour = colour.convert("RGB")
    height, width = pixels.size
    if colour.size != (width, height):
        colour = colour.resize((width, height), Image.Resampling[pixels.filter.upper()])
    array = np.asarray(colour)
    return 255 - array if pixels.invert else array


def is_coloured(image: Any) -> bool:
    """Whether a Pillow image of mode L or RGB has a pixel of unequal channels.

    Example:
        >>> from PIL import Image
        >>> is_coloured(Image.new("RGB", (2, 2), (5, 5, 5)))
        False
    """
    if image.mode != "RGB":
        return False
    values = np.asarray(image).astype(np.int16)
    # JPEG rounds the channels of a grey image apart by a step or two.
    return bool((values.max(2) - values.min(2)).max() > 8)


def _opened(source: Any) -> Any:
    """The image of a file, decoded; the file is closed."""
    from PIL import Image

    with Image.open(source, formats=FORMATS) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"it has {image.width} x {image.height} pixels, more than 50 million")
        image.load()
        return image


def _as_colour(image: Any, *, deep: bool) -> Any:
    """A Pillow image of any mode as L or RGB of 8 bits; `deep`: its values are of 16 bits."""
    from PIL import Image

    if deep or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        if deep:
            if "transparency" in image.info:
                values[values == image.info["transparency"]] = 65535
            values = values / 257
        if not ((values >= 0) & (values <= 255)).all():
            raise ValueError(f"its values are in {values.min():g}..{values.max():g}, expected "
                             "0..255")  # fmt: skip
        # Pillow's own conversion would clip 16-bit values.
        return Image.fromarray(np.round(values).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    if image.mode in ("L", "1"):
        return image.convert("L")
    return image.convert("RGB")
