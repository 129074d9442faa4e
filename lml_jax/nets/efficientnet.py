"""EfficientNet-Lite0 as an encoder: inverted residual blocks without batch statistics."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.checks import check_positive
from lml_jax.pixels import as_float
from lml_jax.types import Key, Net, Params

WIDTH = 1280  # of the features
STEM = 32


class InvertedResidual(NamedTuple):
    """A block: expand by 1x1, filter each channel by itself, project by 1x1."""

    size: int  # of the filters
    stride: int
    channels_in: int
    channels: int
    expand: int

    @property
    def hidden(self) -> int:
        """Channels that are filtered."""
        return self.channels_in * self.expand

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.channels_in == self.channels


def _blocks() -> tuple[InvertedResidual, ...]:
    # blocks, size, stride of the first, channels, expansion
    stages = (
        (1, 3, 1, 16, 1), (2, 3, 2, 24, 6), (2, 5, 2, 40, 6), (3, 3, 2, 80, 6),
        (3, 5, 1, 112, 6), (4, 5, 2, 192, 6), (1, 3, 1, 320, 6),
    )  # fmt: skip
    found: list[InvertedResidual] = []
    before = STEM
    for repeats, size, first_stride, channels, expand in stages:
        for i in range(repeats):
            stride = first_stride if i == 0 else 1
            found.append(InvertedResidual(size, stride, before, channels, expand))
            before = channels
    return tuple(found)


BLOCKS = _blocks()


def efficientnet_lite0(*, size: int = 128) -> Net:
    """EfficientNet-Lite0 without its classifier, for images in colour of any size.

    A stem, 16 blocks and a 1x1 convolution, each followed by a bias and min(max(x, 0), 6) but for
    the projections; the features are means over positions. Normalisation is folded into the
    kernels: it is a network to freeze, with weights trained elsewhere.

    Args:
        size: images of other sizes are resized to [size, size] pixels first, bicubic; the weights
            were trained at 224, and 128 takes a third of that time.

    Returns:
        A `Net` from images [n, H, W, 3], uint8 or floats in 0..1, to features [n, 1280], each of
        its image alone. `init` draws kernels of variance 2 / fan-in; `keep.efficientnet_lite0`
        reads weights trained on ImageNet.

    Raises:
        ValueError: for a size below 1; when called, for images that have not three channels.

    Example:
        >>> net = efficientnet_lite0(size=32)
        >>> x = jnp.zeros((2, 8, 8, 3))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (2, 1280)

    Source:
        Tan, Le. EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019;
        https://arxiv.org/abs/1905.11946. Lite: without squeeze and excitation, with ReLU6;
        https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """
    check_positive(size=size)
    return Net(_init, partial(_apply, size=size))


def _init(key: Key, x: Array) -> Params:
    """Random parameters."""
    _check(x)
    keys = iter(jax.random.split(key, 2 + 3 * len(BLOCKS)))

    def layer(*shape: int) -> Params:
        fan_in = shape[0] * shape[1] * shape[2] if len(shape) == 4 else shape[0]
        kernel = jax.random.normal(next(keys), shape) * jnp.sqrt(2 / fan_in)
        return {"kernel": kernel, "bias": jnp.zeros(shape[-1])}

    blocks = [
        ({} if block.expand == 1 else {"expand": layer(block.channels_in, block.hidden)})
        | {
            "depthwise": layer(block.size, block.size, 1, block.hidden),
            "project": layer(block.hidden, block.channels),
        }
        for block in BLOCKS
    ]
    return {
        "stem": layer(3, 3, 3, STEM),
        "blocks": blocks,
        "head": layer(BLOCKS[-1].channels, WIDTH),
    }


def _apply(params: Params, x: Array, *, size: int) -> Array:
    """Features [n, 1280] of images [n, H, W, 3]."""
    _check(x)
    x = as_float(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if x.shape[1:3] != (size, size):
        resized = jax.image.resize(x, (x.shape[0], size, size, 3), "bicubic")
        x = jnp.clip(resized, 0.0, 1.0)  # bicubic overshoots at edges
    x = (x - 0.498) / 0.502  # as the weights were trained
    x = _relu6(_stem(params["stem"], x))
    for block, own in zip(BLOCKS, params["blocks"], strict=True):
        h = _relu6(_pointwise(own["expand"], x)) if "expand" in own else x
        h = _relu6(_depthwise(own["depthwise"], h, block))
        h = _pointwise(own["project"], h)
        x = x + h if block.residual else h
    return _relu6(_pointwise(params["head"], x)).mean((1, 2))


def _check(x: Array) -> None:
    if x.ndim != 4 or x.shape[-1] != 3:
        raise ValueError(f"EfficientNet-Lite0 expects images [n, H, W, 3], got {list(x.shape)}")


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0.0, 6.0)


def _stem(layer: Params, x: Array) -> Array:
    names = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(x, layer["kernel"], (2, 2), "SAME", dimension_numbers=names)
    return out + layer["bias"][None, None, None]


def _pointwise(layer: Params, x: Array) -> Array:
    return x @ layer["kernel"] + layer["bias"][None, None, None]


def _depthwise(layer: Params, x: Array, block: InvertedResidual) -> Array:
    """Each channel filtered by itself: as a sum of shifted products, which XLA makes one loop.

    On CPU that takes a twentieth of the time of a grouped convolution, or less.
    """
    size, stride = block.size, block.stride
    n, height, width, channels = x.shape
    # As TensorFlow pads for "SAME": the odd row or column after the image.
    rows, columns = -(-height // stride), -(-width // stride)
    padding = [max((out - 1) * stride + size - given, 0)
               for out, given in ((rows, height), (columns, width))]  # fmt: skip
    before_after = [(pad // 2, pad - pad // 2) for pad in padding]
    x = jnp.pad(x, ((0, 0), *before_after, (0, 0)))
    out = jnp.broadcast_to(layer["bias"], (n, rows, columns, channels))
    for i in range(size):
        for j in range(size):
            last = (n, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, channels)
            shifted = jax.lax.slice(x, (0, i, j, 0), last, (1, stride, stride, 1))
            out = out + shifted * layer["kernel"][i, j][None, None]
    return out
