"""The features that an encoder gives for a whole data set, computed once and kept on disk."""

import hashlib
from dataclasses import replace

import jax
import numpy as np
from tqdm import tqdm

from lml_jax.data._cache import Arrays, cached
from lml_jax.keep.batches import encode_all, sizes_for
from lml_jax.keep.encoders import Encoder, width_of
from lml_jax.types import Dataset

_FORMAT = 1  # raise it when what the cache holds changes meaning


def features(
    encoder: Encoder, data: Dataset, *, cache: bool = True, progress: bool = True
) -> Dataset:
    """`data` with the features of its examples in place of them.

    They are computed in batches of bounded memory, and kept in the cache folder under a hash of
    the encoder's parameters and of all examples.

    Args:
        encoder: from `keep.encoder`, `keep.own_encoder` or `keep.efficientnet_lite0`. One of a
            function of your own is not cached: the function has no hash.
        data: examples [n, ...], uint8 or float32.
        cache: keep the features on disk.
        progress: show a progress bar, where the output is a terminal.

    Returns:
        The same classes and names, with x float32 [n, d].

    Raises:
        ValueError: for an encoder that does not take these examples.

    Example:
        >>> from lml_jax.data.arrays import from_arrays
        >>> from lml_jax.keep.encoders import encoder
        >>> data = from_arrays(np.zeros((4, 3, 3), np.uint8), np.array([0, 0, 1, 1]))
        >>> features(encoder("flat", {}), data, cache=False).x.shape
        (4, 9)
    """
    x = np.asarray(data.x)
    dim = width_of(encoder, x.shape[1:], str(x.dtype))

    def build() -> Arrays:
        z = np.empty((len(x), dim), np.float32)
        step = 4 * sizes_for(x.shape[1:])[-1]
        title, hidden = f"features by {encoder.name}", None if progress else True
        with tqdm(total=len(x), disable=hidden, unit="example", desc=title) as bar:
            for begin in range(0, len(x), step):
                part = x[begin : begin + step]
                z[begin : begin + step] = encode_all(encoder.apply, encoder.params, part, dim)
                bar.update(len(part))
        return {"z": z}

    registered = encoder.name != "own"
    key = f"features-{_hash_of(encoder, x)}-v{_FORMAT}" if registered and cache else ""
    z = cached(key, build, keys=["z"], cache=bool(key))["z"]
    return replace(data, x=z)


def _hash_of(encoder: Encoder, x: np.ndarray) -> str:
    digest = hashlib.sha256(f"{encoder.name} {encoder.options} {x.dtype} {x.shape}".encode())
    for leaf in (*jax.tree.leaves(encoder.params), x):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:20]
