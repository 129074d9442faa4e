"""Images turned, scaled, sheared and shifted: affine maps, sampled bilinearly, in pure JAX."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.checks import check_images
from lml_jax.types import Key


class Jitter(NamedTuple):
    """How far random affine maps go: each number is drawn uniformly from -limit..limit."""

    degrees: float | Array = 15.0  # of rotation
    scale: float | Array = 0.15  # of the logarithm of each axis' scale
    shear: float | Array = 0.2
    shift: float | Array = 0.07  # of the image's size, along each axis


def warp(x: Array, matrix: Array, shift: Array) -> Array:
    """Images moved by affine maps.

    y(p) = x(A (p - c) + c + t), p = (row, column), c the centre; zeros outside the image.

    Args:
        x: images [n, H, W] or [n, H, W, channels], of floats, or of integers, which are rounded.
        matrix: A [n, 2, 2], the same for all channels of an image.
        shift: t [n, 2], in pixels.

    Returns:
        Images of the shape and type of x.

    Raises:
        ValueError: for another rank; for images [n, channels, H, W].

    Example:
        >>> x = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
        >>> warp(x, jnp.eye(2)[None], jnp.array([[0.0, 1.0]]))[0].tolist()
        [[2.0, 0.0], [4.0, 0.0]]
    """
    check_images(x, what="affine maps")
    h, w = x.shape[1:3]
    dtype = jnp.float64 if matrix.dtype == jnp.float64 else jnp.float32
    centre = jnp.array([(h - 1) / 2, (w - 1) / 2], dtype)[:, None]
    rows = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"))
    grid = rows.reshape(2, -1).astype(dtype)
    integer = jnp.issubdtype(x.dtype, jnp.integer)

    def one(image: Array, matrix: Array, shift: Array) -> Array:
        where = matrix.astype(dtype) @ (grid - centre) + centre + shift.astype(dtype)[:, None]
        rows, columns = where.reshape(2, h, w)

        def channel(plane: Array) -> Array:
            return jax.scipy.ndimage.map_coordinates(plane.astype(dtype), [rows, columns], order=1)

        if image.ndim == 3:
            channel = jax.vmap(channel, in_axes=-1, out_axes=-1)
        sampled = channel(image)
        # Rounding, for images of uint8: truncation would darken a little at every turn.
        return (jnp.round(sampled) if integer else sampled).astype(x.dtype)

    return jax.vmap(one)(x, matrix, shift)


def turn(radians: Array) -> Array:
    """The `matrix` [..., 2, 2] of `warp` that turns by so much, counter-clockwise."""
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    return jnp.stack([jnp.stack([cos, sin], -1), jnp.stack([-sin, cos], -1)], -2)


def affine(x: Array, key: Key, jitter: Jitter) -> Array:
    """Each image moved by an affine map of its own, of a size within `jitter`.

    A = turn(a) [[1, s], [0, 1]] diag(exp u, exp v), with a, s, u, v and the shift uniform.

    Args:
        x: images [n, H, W] or [n, H, W, channels].
        key: a typed key.
        jitter: the limits, which may be traced; at 0 an image stays as it is.

    Returns:
        Images of the shape and type of x.

    Raises:
        ValueError: for another rank; for images [n, channels, H, W].

    Example:
        >>> x = jnp.eye(4)[None]
        >>> jnp.abs(affine(x, jax.random.key(0), Jitter(0.0, 0.0, 0.0, 0.0)) - x).max().item()
        0.0
    """
    drawn = jax.random.uniform(key, (6, x.shape[0]), minval=-1.0, maxval=1.0)
    angle, shear = jnp.deg2rad(jitter.degrees * drawn[0]), jitter.shear * drawn[1]
    zero, one = jnp.zeros_like(shear), jnp.ones_like(shear)
    slant = jnp.stack([jnp.stack([one, shear], -1), jnp.stack([zero, one], -1)], -2)
    matrix = turn(angle) @ slant * jnp.exp(jitter.scale * drawn[2:4].T)[:, None, :]
    size = jnp.array([x.shape[1:3]], drawn.dtype)
    return warp(x, matrix, jitter.shift * drawn[4:6].T * size)
