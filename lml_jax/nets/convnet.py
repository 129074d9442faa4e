"""Convolutional networks of blocks that the caller lists."""

from collections.abc import Sequence
from typing import NamedTuple

from flax import linen as nn
from jax import Array

from lml_jax.checks import check_positive
from lml_jax.nets.feedforward import (
    Linear,
    _as_images,
    _Conv,
    _max_pool,
    _net,
    _Norm,
    _normalised,
    _truncated,
)
from lml_jax.types import Net


class Block(NamedTuple):
    """[3x3 convolution, normalisation, ReLU], then 2x2 max-pooling where `pool` says so."""

    filters: int
    stride: int = 1
    pool: bool = False


# A fast embedding of 28x28 images: the first block is strided, for it sees the largest maps.
MIXED = (Block(32, stride=2), Block(64, pool=True), Block(64, pool=True), Block(64))


def convnet(
    outputs: int | None,
    blocks: Sequence[Block] = MIXED,
    *,
    group_size: int = 8,
    eps: float = 1e-3,
    norm_features: bool = False,
    channels: int | None = None,
) -> Net:
    """Blocks of convolutions with GroupNorm, all features of the last, then a linear head.

    Args:
        outputs: width of the head; None for no head: the embedding itself.
        blocks: in order.
        group_size: channels in a group of GroupNorm; divides the filters of each block.
        eps: added to the variance.
        norm_features: as in `conv4`.
        channels: of the images; None: as they come, channels-first images refused.

    Returns:
        A net on images [n, H, W] or [n, H, W, channels], with outputs [n, outputs] or embeddings
        [n, features].

    Raises:
        ValueError: for no block, a size below 1, or filters that are no multiple of `group_size`.

    Example:
        >>> net = convnet(None)
        >>> x = jnp.zeros((2, 28, 28), jnp.uint8)
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (2, 576)

    Source:
        GroupNorm: Wu, He. Group Normalization, 2018, https://arxiv.org/abs/1803.08494.
    """
    if not blocks:
        raise ValueError("expected at least one block")
    check_positive(group_size=group_size, **({} if outputs is None else {"outputs": outputs}))
    for block in blocks:
        check_positive(filters=block.filters, stride=block.stride)
        if block.filters % group_size:
            raise ValueError(
                f"filters must be a multiple of group_size {group_size}, got {block.filters}"
            )
    least = 1
    for block in blocks:
        least *= block.stride * (2 if block.pool else 1)
    module = _ConvNet(tuple(blocks), outputs, group_size, eps, norm_features)
    return _net(module, "convnet", _as_images(least, channels))


class _ConvNet(nn.Module):
    blocks: tuple[Block, ...]
    outputs: int | None
    group_size: int
    eps: float
    norm_features: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, block in enumerate(self.blocks, 1):
            x = _Conv(block.filters, stride=block.stride, name=f"conv{i}")(x)
            norm = _Norm(block.filters // self.group_size, self.eps, name=f"norm{i}")
            x = nn.relu(norm(x))
            x = _max_pool(x) if block.pool else x
        x = x.reshape(x.shape[0], -1)
        x = _normalised(x, self.eps) if self.norm_features else x
        return x if self.outputs is None else Linear(self.outputs, _truncated(0.01), name="head")(x)
