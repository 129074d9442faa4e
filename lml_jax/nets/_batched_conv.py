"""A 2-D convolution whose `vmap` over per-task kernels stays fast.

`vmap` of `lax.conv_general_dilated` over kernels becomes a grouped convolution, which XLA runs 4
to 20 times too slowly on CPU. Here one primitive computes the trilinear form

    T(x, w, y) = sum_t < conv(x_t, w_t), y_t >,

where t counts tasks, with one of the three left open as the output: `y` open is the convolution,
`x` open its gradient to the images, `w` open its gradient to the kernel. Differentiating or
transposing one gives another, so any order of derivative, forward or reverse, is again this
primitive; and `vmap` either widens an axis that two of the three share (no task axis is needed as
long as one of them is common to all tasks) or multiplies the number of tasks.

How it is lowered was chosen by measurement: on two CPU cores, see `_conv_forms.for_cpu`, and on one
H200, where 32 tasks of 25 images of 28x28x64 run at 191 (forward), 184 (to images) and 70 TFLOP/s
(to kernels) as one grouped convolution, and at 48, 54 and 37 as patches and one batched matrix
product (tf32). Other platforms, a TPU among them, take patches, unmeasured; `lowering` selects one
of these two, so that they can be compared.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike

from lml_jax.checks import known
from lml_jax.nets._conv_forms import INPUTS, for_cpu, grouped, like, out_shape, patches

# Where two of them share an axis: images n, channels in i, channels out o.
_SHARED_AXIS = {"xy": {"x": 1, "y": 1}, "wx": {"x": 4, "w": 3}, "wy": {"w": 4, "y": 4}}


def conv2d(x: ArrayLike, w: ArrayLike, *, stride: int = 1) -> Array:
    """Convolve images with a kernel, padding 'SAME'; fast under `vmap` over both.

    y[n, p, q, o] = sum_{a, b, i} x[n, s p + a - top, s q + b - left, i] w[a, b, i, o]

    Args:
      x: images [n, H, W, channels in].
      w: kernel [a, b, channels in, channels out], of the same dtype.
      stride: s, the same in both directions.

    Returns:
      y, [n, ceil(H / s), ceil(W / s), channels out].

    Example:
      >>> images, kernels = jnp.ones((4, 5, 28, 28, 1)), jnp.ones((4, 3, 3, 1, 64))
      >>> jax.vmap(partial(conv2d, stride=2))(images, kernels).shape
      (4, 5, 14, 14, 64)
    """
    x, w = jnp.asarray(x), jnp.asarray(w)
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise ValueError(
            "conv2d takes x [n, H, W, channels in] and w [a, b, channels in, channels out], "
            f"got {x.shape} and {w.shape}"
        )
    if x.dtype != w.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"conv2d takes x and w of one floating dtype, got {x.dtype.name} and {w.dtype.name}"
        )
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    x, w = like(x[None], w), like(w[None], x)
    sizes = {"stride": stride, "image": x.shape[2:4], "kernel": w.shape[1:3]}
    return _conv_p.bind(x, w, out="y", lowering=_chosen.value, **sizes)[0]


# Part of the key of every jit cache: a function traced under one lowering is traced again under
# another.
_chosen = jax.make_user_context(default_value=None)


@contextmanager
def lowering(name: str | None) -> Iterator[None]:
    """Lower every `conv2d` that is traced inside, and its derivatives, in one given way.

    It is for measurements: the result is the same up to rounding, the time is not.

    Args:
      name: "patches", patches and one batched matrix product; "grouped", one convolution with a
        group of channels per task, and its transposes; None, what is chosen for the platform.

    Raises:
      ValueError: for an unknown name.

    Example:
      >>> with lowering("grouped"):
      ...     y = jax.jit(conv2d)(jnp.ones((1, 8, 8, 1)), jnp.ones((3, 3, 1, 4)))
      >>> y.shape
      (1, 8, 8, 4)
    """
    with _chosen(None if name is None else known(name, LOWERINGS, what="lowering")):
        yield


def _abstract(a: Any, b: Any, *, out: str, lowering: str | None, **sizes: Any) -> Any:
    return a.update(shape=out_shape(out, a, b, **sizes), weak_type=False)


def _transpose(place: int, ct: Array, a: Any, b: Any, *, out: str, **sizes: Any) -> Array:
    """The cotangent of input `place`: the same form, with that input as the output."""
    have = dict(zip(INPUTS[out], (a, b), strict=True)) | {out: ct}
    wanted = INPUTS[out][place]
    return _conv_p.bind(*(have[role] for role in INPUTS[wanted]), out=wanted, **sizes)


def _batch(args: Any, dims: Any, *, out: str, **sizes: Any) -> tuple[Array, int]:
    roles = INPUTS[out]
    if None not in dims:
        size = args[0].shape[dims[0]]
        a, b = (_fold(v, d, 0) for v, d in zip(args, dims, strict=True))
        return _unfold(_conv_p.bind(a, b, out=out, **sizes), 0, size), 0
    # One input is common to all: widen the axis that the other shares with the output.
    place = 0 if dims[1] is None else 1
    axis = _SHARED_AXIS["".join(sorted(roles[place] + out))]
    size = args[place].shape[dims[place]]
    args = list(args)
    args[place] = _fold(args[place], dims[place], axis[roles[place]])
    y = _conv_p.bind(*args, out=out, **sizes)
    return _unfold(y, axis[out], size), axis[out]


def _fold(v: Array, dim: int, axis: int) -> Array:
    """Merge the batch axis `dim` into `axis` (counted without it)."""
    v = jnp.moveaxis(v, dim, axis)
    return v.reshape(*v.shape[:axis], v.shape[axis] * v.shape[axis + 1], *v.shape[axis + 2 :])


def _unfold(v: Array, axis: int, size: int) -> Array:
    return v.reshape(*v.shape[:axis], size, v.shape[axis] // size, *v.shape[axis + 1 :])


LOWERINGS = {"patches": patches, "grouped": grouped}


def _lowered(default: Any) -> Any:
    def lowered(a: Array, b: Array, *, lowering: str | None, **params: Any) -> Array:
        return (default if lowering is None else LOWERINGS[lowering])(a, b, **params)

    return mlir.lower_fun(lowered, multiple_results=False)


def _impl(*args: Array, **params: Any) -> Array:
    # Under jax.disable_jit the call would come back here for ever.
    with jax.disable_jit(False):
        return _jitted(*args, **params)


_conv_p = Primitive("lml_conv2d")
_jitted = jax.jit(_conv_p.bind, static_argnames=("out", "lowering", "stride", "image", "kernel"))
_conv_p.def_impl(_impl)
_conv_p.def_abstract_eval(_abstract)
ad.defbilinear(_conv_p, partial(_transpose, 0), partial(_transpose, 1))
batching.primitive_batchers[_conv_p] = _batch
mlir.register_lowering(_conv_p, _lowered(patches))
mlir.register_lowering(_conv_p, _lowered(for_cpu), platform="cpu")
mlir.register_lowering(_conv_p, _lowered(grouped), platform="gpu")
