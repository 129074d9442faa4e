"""Omniglot, as tfds prepared it."""

import os
from pathlib import Path

import numpy as np

from lml_jax.checks import known
from lml_jax.data._cache import Arrays, cached
from lml_jax.data._tfds import decode_image, prepared, read_records
from lml_jax.data.arrays import from_arrays
from lml_jax.types import Dataset

_FORMAT = 1  # raise it when what the cache holds changes meaning
_OMNIGLOT_CLASSES = {"background": 964, "evaluation": 659}
_OMNIGLOT_TFDS = {"background": "train", "evaluation": "test"}


def omniglot(
    split: str, *, data_dir: str | os.PathLike | None = None, size: int = 28, cache: bool = True
) -> Dataset:
    """Omniglot: handwritten characters of 50 alphabets, 20 drawings of each.

    `split`: "background" (964 classes of 30 alphabets), "evaluation" (659 of 20) or "all" (1,623,
    background first). `x` is uint8 [n, size, size], ink 255 on 0. Classes are sorted by alphabet,
    then character; `group` is the alphabet. `data_dir` is where tfds prepared the data (None:
    TFDS_DATA_DIR, else ~/tensorflow_datasets). Nothing is ever downloaded.

    MAML's script asks for LANCZOS too, but Pillow resizes its 1-bit images by nearest neighbour;
    here the ink is made 8-bit first, so strokes are smooth.

    Raises:
        FileNotFoundError: the data set is not prepared; the message names the command.
        ValueError: unknown split, size outside 4..105, or a folder that is not the whole data set.

    Example:
        >>> data = omniglot("background")  # doctest: +SKIP
        >>> data.classes, data.x.shape  # doctest: +SKIP
        (964, (19280, 28, 28))

    Source: Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic
    program induction", Science 350, 2015.
    """
    known(split, (*_OMNIGLOT_TFDS, "all"), what="split of Omniglot")
    if isinstance(size, bool) or not isinstance(size, int) or not 4 <= size <= 105:
        raise ValueError(f"size is {size!r}, expected an integer in 4..105 (pixels)")
    folder, stamp = prepared("omniglot", data_dir)
    parts = [
        cached(
            f"omniglot-{folder.name}-{stamp}-{part}-{size}px-v{_FORMAT}",
            lambda part=part: _read_omniglot(folder, part, size),  # type: ignore[misc]
            keys=["x", "y", "group", "groups"],
            cache=cache,
        )
        for part in (_OMNIGLOT_TFDS if split == "all" else [split])
    ]
    y, group, groups = parts[0]["y"], parts[0]["group"], parts[0]["groups"]
    for part in parts[1:]:
        y = np.concatenate([y, part["y"] + len(group)])
        group = np.concatenate([group, part["group"] + len(groups)])
        groups = np.concatenate([groups, part["groups"]])
    x = np.concatenate([part["x"] for part in parts])
    return from_arrays(x, y, group=group, groups=groups.tolist())


def _read_omniglot(folder: Path, part: str, size: int) -> Arrays:
    """The arrays of one half of Omniglot, classes sorted by (alphabet, character)."""
    from PIL import Image

    records = read_records(folder, _OMNIGLOT_TFDS[part])
    names = (folder / "alphabet.labels.txt").read_text(encoding="utf-8").split()
    keys = [(names[r["alphabet"]], r["alphabet_char_id"]) for r in records]
    characters = sorted(set(keys))
    if len(characters) != _OMNIGLOT_CLASSES[part] or len(keys) != 20 * len(characters):
        raise ValueError(
            f"{folder} has {len(characters)} characters and {len(keys)} images in {part!r}, "
            f"expected {_OMNIGLOT_CLASSES[part]} and 20 of each"
        )
    label = {key: i for i, key in enumerate(characters)}
    groups = sorted({alphabet for alphabet, _ in characters})
    # The images have 1 bit, paper set, and decoders disagree whether that is 1 or 255.
    ink = [decode_image(record).point([255] + 255 * [0]) for record in records]
    x = np.stack([np.asarray(i.resize((size, size), Image.Resampling.LANCZOS)) for i in ink])
    y = np.array([label[key] for key in keys], np.int32)
    order = np.argsort(y, kind="stable")
    group = np.array([groups.index(alphabet) for alphabet, _ in characters], np.int32)
    return {"x": x[order], "y": y[order], "group": group, "groups": np.array(groups)}
