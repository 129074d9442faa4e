"""The 8x8 digits that come with scikit-learn: no download, for quick runs on a CPU."""

import numpy as np

from lml_jax.data.arrays import from_arrays
from lml_jax.types import Dataset


def digits() -> Dataset:
    """1,797 handwritten digits, 174 to 183 of each; `x` float [n, 8, 8] in 0..1, ink bright.

    Raises:
        ModuleNotFoundError: scikit-learn is not there; the message names the command.

    Example:
        >>> digits().classes  # doctest: +SKIP
        10

    Source: Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998;
    the test part, as in scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the 8x8 digits come with scikit-learn, which is not installed: "
            "pip install 'lml-jax[digits]'"
        ) from error
    loaded = load_digits()
    return from_arrays(loaded.images.astype(np.float32) / 16, loaded.target)
