"""Glyphs: characters of 16 scripts drawn from the fonts of matplotlib; no download.

A class is a character, a group is a script. Each example is a font face seen through a random
affine map, a smooth bend and a pen of random width, so that classes vary as handwriting does.
"""

import unicodedata
import zlib
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lml_jax.data._cache import Arrays, cached
from lml_jax.data.arrays import from_arrays
from lml_jax.types import Dataset

_FORMAT = 1  # raise it when the same arguments give other images

# Where two scripts share a shape, the class is of the earlier one. What follows the first dozen
# are signs, last in a stream. The names are what unicodedata's names begin with, save two blocks.
_SCRIPTS = (
    *("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN", "HEBREW", "ARABIC", "NKO", "LAO"),
    *("TIFINAGH", "OGHAM", "OLD ITALIC", "CANADIAN SYLLABICS"),
    *("APL FUNCTIONAL SYMBOL", "ARROWS", "OPERATORS"),
)
_BLOCKS = {"ARROWS": range(0x2190, 0x2200), "OPERATORS": range(0x2200, 0x2300)}
_SIGNS = (*_BLOCKS, "APL FUNCTIONAL SYMBOL")
# The first face that has a character is the one that is compared with those of earlier classes.
_FACES = (
    *("Sans", "SansMono", "Serif", "Sans-Bold", "SansMono-Bold", "Serif-Bold"),
    *("Sans-Oblique", "SansMono-Oblique", "Serif-Italic"),
    *("Sans-BoldOblique", "SansMono-BoldOblique", "Serif-BoldItalic"),
)

_SIDE, _BOX = 64, 48  # pixels of a master image, and of the longer side of the character in it
_ALIKE = 0.935  # cosine between blurred characters from which they are one class
_REACH = 5  # pixels of a master up to which distances to the outline are known; 4 are used
_WAVES = 4  # cosines per axis in the bend


def glyphs(*, size: int = 28, per_class: int = 20, seed: int = 0, cache: bool = True) -> Dataset:
    """Characters of 16 scripts as `x` uint8 [C * per_class, size, size], ink 255 on 0.

    `size` in 12..105 pixels; `per_class` > 0 examples of each class; `seed` >= 0 draws the jitter,
    never the classes. Examples of a class do not depend on `per_class`: more only adds. Characters
    that look alike once scaled to one size (Latin A and Greek Alpha, o and O) are one class, of the
    earlier script. `group` is the script, in the order of `groups`.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument is out of range.

    Example:
        >>> data = glyphs(size=12, per_class=1)
        >>> data.classes >= 1000, len(data.groups)
        (True, 16)
    """
    for name, value, low, high in (
        ("size", size, 12, 105),
        ("per_class", per_class, 1, 10_000),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} is {value!r}, expected an integer")
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}, expected {low}..{high}")
    classes = _classes(cache)

    def build() -> Arrays:
        faces = _faces()
        drawn = [_draw(faces, chr(code), size, per_class, seed) for code in classes["code"]]
        return {"x": np.concatenate(drawn)}

    # Stamped with the classes, so that images are never paired with those of another build.
    stamp = f"{zlib.crc32(classes['code'].tobytes()):08x}"
    name = f"glyphs-{size}px-{per_class}each-seed{seed}-{stamp}-{_version()}"
    x = cached(name, build, keys=["x"], cache=cache)["x"]
    y = np.repeat(np.arange(len(classes["code"])), per_class)
    return from_arrays(x, y, group=classes["group"], groups=_SCRIPTS)


def characters(*, cache: bool = True) -> tuple[str, ...]:
    """The character that class i of `glyphs` is drawn from, for each i.

    Example:
        >>> characters()[:3]
        ('A', 'B', 'C')
    """
    return tuple(chr(code) for code in _classes(cache)["code"])


def _version() -> str:
    """What the images depend on besides the arguments: this file, the fonts, the rasteriser."""
    return f"mpl{version('matplotlib')}-pil{version('pillow')}-v{_FORMAT}"


def _classes(cache: bool) -> Arrays:
    """Code point and script of each class, in order."""
    return cached(f"glyphs-classes-{_version()}", _distinct, keys=["code", "group"], cache=cache)


def _faces() -> list[tuple[Any, set[int]]]:
    """Each face as a Pillow font, with the code points that it has."""
    # Here and not above: importing the package need not wait for matplotlib.
    import matplotlib
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = [str(folder / f"DejaVu{face}.ttf") for face in _FACES]
    # The basic layout, because the other depends on a library that not every Pillow carries.
    layout = ImageFont.Layout.BASIC
    return [
        (ImageFont.truetype(path, 80, layout_engine=layout), set(FT2Font(path).get_charmap()))
        for path in paths
    ]


def _script(code: int) -> int | None:
    """The script of a character, as a place in _SCRIPTS; None where it makes no class."""
    char = chr(code)
    name, category = unicodedata.name(char, ""), unicodedata.category(char)
    # What decomposes is another character with a mark, or in another dress; fragments are neither.
    if unicodedata.decomposition(char) or name.endswith(" FRAGMENT"):
        return None
    for i, script in enumerate(_SCRIPTS):
        if code in _BLOCKS[script] if script in _BLOCKS else name.startswith(f"{script} "):
            wanted = ("Sm", "So") if script in _SIGNS else ("Lu", "Ll", "Lo", "Nd")
            return i if category in wanted else None
    return None


def _distinct() -> Arrays:
    """The characters that differ in shape, by script and code point."""
    faces = _faces()
    known = sorted(set().union(*(codes for _, codes in faces)))
    scripts = [(script, code) for code in known if (script := _script(code)) is not None]
    found, looks = [], []
    for script, code in sorted(scripts):
        masters = _masters(faces, chr(code))
        if len(masters):
            looks.append(np.stack([_look(master) for master in masters]))
            found.append((code, script))
    # 256 products of bytes sum to less than 2**24, so float32 is exact and every machine keeps the
    # same classes.
    every = np.concatenate(looks).astype(np.float32)
    norm = np.sqrt(np.square(every).sum(1, dtype=np.float64))
    first = np.cumsum([0, *(len(look) for look in looks[:-1])])
    kept: list[int] = []
    for block in np.array_split(np.arange(len(looks)), 16):  # in blocks, to need little memory
        rows = first[block]
        cosine = every[rows] @ every.T / (norm[rows, None] * norm)
        # A character in its first face may look like another in any: widths differ by face.
        alike = np.maximum.reduceat(cosine, first, axis=1) >= _ALIKE
        for i, like in zip(block, alike, strict=True):
            if not like[kept].any():
                kept.append(int(i))
    code, group = np.array(found, np.int32)[kept].T
    return {"code": code, "group": group}


def _look(master: np.ndarray) -> np.ndarray:
    """A master as it is compared, uint8 [256]: blurred, so that small shifts count little."""
    from PIL import Image, ImageFilter

    blurred = Image.fromarray(master).filter(ImageFilter.GaussianBlur(2))
    return np.asarray(blurred.resize((16, 16), Image.Resampling.BOX)).ravel()


def _masters(faces: list[tuple[Any, set[int]]], char: str) -> np.ndarray:
    """The character in each face that has it, uint8 [faces, side, side]; blank ones left out."""
    from PIL import Image

    masters = []
    for font, codes in faces:
        if ord(char) not in codes:
            continue  # Pillow would draw the box that stands for a missing character
        mask = font.getmask(char, mode="L")
        image = Image.frombytes("L", mask.size, bytes(mask))
        bounds = image.getbbox()
        if bounds is None:
            continue
        image = image.crop(bounds)
        scale = _BOX / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        master = Image.new("L", (_SIDE, _SIDE))
        master.paste(image, ((_SIDE - width) // 2, (_SIDE - height) // 2))
        masters.append(np.asarray(master))
    return np.stack(masters) if masters else np.zeros((0, _SIDE, _SIDE), np.uint8)


def _outline_distance(masters: np.ndarray) -> np.ndarray:
    """Signed distance to the outline in pixels, negative in the ink, within +-_REACH."""

    def outside(ink: np.ndarray) -> np.ndarray:
        # The square of a distance is a sum over axes, so its minimum is taken axis by axis.
        square = np.where(ink, np.float32(0), np.float32(_REACH**2))
        for axis in (1, 2):
            moved = [
                np.roll(square, shift, axis) + np.float32(shift**2)
                for shift in range(-_REACH, _REACH + 1)
            ]
            square = reduce(np.minimum, moved)
        return np.sqrt(np.minimum(square, np.float32(_REACH**2)))

    ink = masters > 127
    return outside(ink) - outside(~ink)


def _draw(
    faces: list[tuple[Any, set[int]]], char: str, size: int, per_class: int, seed: int
) -> np.ndarray:
    """Examples of one class, uint8 [per_class, size, size]."""
    masters = _masters(faces, char)
    # Each class has a generator of its own, each example a row of it: neither knows the others.
    u = np.random.default_rng([seed, ord(char)]).uniform(-1, 1, (per_class, 8 + 2 * _WAVES**2))
    used, face = np.unique(((u[:, 0] + 1) / 2 * len(masters)).astype(int), return_inverse=True)
    masters = masters[used]
    distance = _outline_distance(masters)
    turn, shear = np.deg2rad(15) * u[:, 1], 0.25 * u[:, 2]
    cos, sin = np.cos(turn), np.sin(turn)
    scale = 0.85 + 0.2 * u[:, 3:5]
    # Page = turn @ shear @ scale @ master, in units where the page is [-1, 1] on each axis.
    column_x = np.stack([cos, sin], -1) * scale[:, :1]
    column_y = np.stack([cos * shear - sin, sin * shear + cos], -1) * scale[:, 1:]
    forward = np.stack([column_x, column_y], -1)
    inked = [np.nonzero(master) for master in masters]
    half = np.array([(np.ptp(x), np.ptp(y)) for y, x in inked]) / _SIDE  # of the page's half side
    extent = np.abs(forward) @ half[face][:, :, None]
    room = 0.88 - extent[:, :, 0]  # what a shift may use; the rest of the page is for the bend
    forward *= np.minimum(1, 0.88 / extent.max(axis=1))[:, :, None]
    shift = u[:, 5:7] * np.clip(room, 0, 0.2)
    return _rasterise(distance, face, forward, shift, u[:, 7], u[:, 8:], size)


def _rasterise(
    distance: np.ndarray,
    face: np.ndarray,
    forward: np.ndarray,
    shift: np.ndarray,
    pen: np.ndarray,
    bend: np.ndarray,
    size: int,
) -> np.ndarray:
    """Ink of each example on a page of `size`: the master is looked up where each pixel is from."""
    n, axis = len(face), (np.arange(size) + 0.5) * 2 / size - 1
    page = (
        np.stack(np.meshgrid(axis, axis), -1) - shift[:, None, None, :]
    )  # [n, size, size, (x, y)]
    wave = np.cos(np.pi / 2 * np.arange(_WAVES) * (axis[:, None] + 1))
    k = np.arange(_WAVES)
    # Slow waves bend most; the constant one would only shift.
    strength = np.where(k[:, None] + k > 0, 0.14 / (1 + k[:, None] ** 2 + k**2), 0)
    weight = bend.reshape(n, 2, _WAVES, _WAVES) * strength
    page = page + np.einsum("nakl,yk,xl->nyxa", weight, wave, wave, optimize=True)
    at = np.einsum("nab,nyxb->nyxa", np.linalg.inv(forward), page)
    at = np.clip((at + 1) * _SIDE / 2 - 0.5, 0, _SIDE - 1.001)
    corner = at.astype(int)
    (fx, fy), (x, y), f = np.moveaxis(at - corner, -1, 0), np.moveaxis(corner, -1, 0), face
    f = f[:, None, None]
    top = distance[f, y, x] * (1 - fx) + distance[f, y, x + 1] * fx
    bottom = distance[f, y + 1, x] * (1 - fx) + distance[f, y + 1, x + 1] * fx
    # In pixels of a page of 28: the pen widens more than it thins, or hairlines would vanish.
    pixel = _SIDE / size
    wider = _SIDE / 28 * (0.1 + 0.3 * pen)[:, None, None]
    ink = 0.5 + (wider - top * (1 - fy) - bottom * fy) / pixel
    return np.round(255 * np.clip(ink, 0, 1)).astype(np.uint8)
