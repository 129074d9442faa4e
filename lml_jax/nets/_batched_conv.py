"""A 2-D convolution whose `vmap` over per-task kernels stays fast.

`vmap` of `lax.conv_general_dilated` over kernels becomes a grouped convolution, which XLA runs 4
to 20 times too slowly on CPU. Here one primitive computes the trilinear form

    T(x, w, y) = sum_t < conv(x_t, w_t), y_t >,

where t counts tasks, with one of the three left open as the output: `y` open is the convolution,
`x` open its gradient to the images, `w` open its gradient to the kernel. Differentiating or
transposing one gives another, so any order of derivative, forward or reverse, is again this
primitive; and `vmap` either widens an axis that two of the three share (no task axis is needed as
long as one of them is common to all tasks) or multiplies the number of tasks.

How it is lowered for CPU was chosen by measurement on two cores. For other platforms it is patches
and one batched matrix product; `lowering` selects another one, so that they can be compared.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike

from lml_jax.checks import known

# x [t, n, H, W, i], w [t, a, b, i, o], y [t, n, h, w, o]: the two that are given, for each output.
_INPUTS = {"y": ("x", "w"), "x": ("w", "y"), "w": ("x", "y")}
# Where two of them share an axis: images n, channels in i, channels out o.
_SHARED_AXIS = {"xy": {"x": 1, "y": 1}, "wx": {"x": 4, "w": 3}, "wy": {"w": 4, "y": 4}}

# Above this many bytes, writing the patches of several tasks costs more than one matrix product for
# all of them saves; for one task it always does.
_PATCH_BYTES = 2**24
# Patches of so many bytes at a time stay in the cache between being written and multiplied.
_CHUNK_BYTES = 2**20
# More convolutions than this, side by side, take too long to compile.
_MOST_UNROLLED = 64


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
    x, w = _like(x[None], w), _like(w[None], x)
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
        group of channels per task, and its transposes; "vmap", the same, but with gradients that
        are `vmap` of one task's; "loop", a `lax.map` over tasks; "unrolled", one convolution per
        task, side by side in the program; None, what is chosen for the platform.

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


def _like(a: Array, other: Array) -> Array:
    """`a`, marked as varying over the mesh axes of `shard_map` over which `other` does."""
    axes = tuple(_varying(other) - _varying(a))
    return lax.pcast(a, axes, to="varying") if axes else a


def _varying(a: Array) -> frozenset:
    aval: Any = jax.typeof(a)
    manual = getattr(aval, "mat", None)  # jax 0.10 moved `vma` there
    return manual.varying if manual is not None else getattr(aval, "vma", frozenset())


def _out_shape(
    out: str, a: Any, b: Any, *, stride: int, image: tuple[int, int], kernel: tuple[int, int]
) -> tuple[int, ...]:
    if out == "y":
        h, w = (-(-size // stride) for size in image)
        return (*a.shape[:2], h, w, b.shape[4])
    if out == "x":
        return (*b.shape[:2], *image, a.shape[3])
    return (a.shape[0], *kernel, a.shape[4], b.shape[4])


def _abstract(a: Any, b: Any, *, out: str, lowering: str | None, **sizes: Any) -> Any:
    return a.update(shape=_out_shape(out, a, b, **sizes), weak_type=False)


def _transpose(place: int, ct: Array, a: Any, b: Any, *, out: str, **sizes: Any) -> Array:
    """The cotangent of input `place`: the same form, with that input as the output."""
    have = dict(zip(_INPUTS[out], (a, b), strict=True)) | {out: ct}
    wanted = _INPUTS[out][place]
    return _conv_p.bind(*(have[role] for role in _INPUTS[wanted]), out=wanted, **sizes)


def _batch(args: Any, dims: Any, *, out: str, **sizes: Any) -> tuple[Array, int]:
    roles = _INPUTS[out]
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


def _native(a: Array, b: Array, *, out: str, **sizes: Any) -> Array:
    """One ordinary convolution a task, side by side in the program."""
    return jnp.stack([_native_one(a[t], b[t], out=out, **sizes) for t in range(a.shape[0])])


def _vmapped(a: Array, b: Array, *, out: str, **sizes: Any) -> Array:
    """Each of the three forms by `vmap`: a grouped convolution with the form's own window."""
    return jax.vmap(lambda a, b: _native_one(a, b, out=out, **sizes))(a, b)


def _grouped(a: Array, b: Array, *, out: str, **sizes: Any) -> Array:
    """One convolution for all tasks, each a group of channels, and the transposes JAX makes of it.

    XLA recognises these transposes as the gradients of a convolution.
    """
    convolve = jax.vmap(lambda x, w: _native_one(x, w, out="y", **sizes))
    return _transposes_of(convolve, a, b, out, **sizes)


def _loop(a: Array, b: Array, *, out: str, **sizes: Any) -> Array:
    """One ordinary convolution a task, or a transpose of it, one after another."""

    def one(ab: tuple[Array, Array]) -> Array:
        def convolve(x: Array, w: Array) -> Array:
            return _native_one(x[0], w[0], out="y", **sizes)[None]

        a, b = ab
        return _transposes_of(convolve, a[None], b[None], out, **sizes)[0]

    return lax.map(one, (a, b))


def _transposes_of(convolve: Any, a: Array, b: Array, out: str, **sizes: Any) -> Array:
    """`convolve`(x, w), or its transpose to x or w."""
    if out == "y":
        return convolve(a, b)
    given = (lambda x: convolve(x, a)) if out == "x" else (lambda w: convolve(a, w))
    wanted = jax.ShapeDtypeStruct(_out_shape(out, a, b, **sizes), a.dtype)
    return jax.linear_transpose(given, wanted)(b)[0]


def _native_one(
    a: Array, b: Array, *, out: str, stride: int, image: tuple[int, int], kernel: tuple[int, int]
) -> Array:
    h, w = _margins(stride, image, kernel)
    s, one = (stride, stride), (1, 1)
    if out == "y":
        return lax.conv_general_dilated(
            a, b, s, [h[:2], w[:2]], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    if out == "x":
        pads = [
            (k - 1 - m[0], size + m[0] - m[2])
            for m, size, k in zip((h, w), image, kernel, strict=True)
        ]
        # Channels swapped by hand: a kernel declared as HWOI runs 5 times as long inside a loop.
        turned = a[::-1, ::-1].swapaxes(2, 3)
        return lax.conv_general_dilated(
            b, turned, one, pads, s, one, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    pads = [
        (m[0], k + m[2] - 1 - size - m[0]) for m, size, k in zip((h, w), image, kernel, strict=True)
    ]
    return lax.conv_general_dilated(
        a, b, one, pads, None, s, dimension_numbers=("CHWN", "IHWO", "HWNC")
    )


def _margins(
    stride: int, image: tuple[int, int], kernel: tuple[int, int]
) -> list[tuple[int, int, int]]:
    """For each direction: padding before, padding after, and 1 + the last window's start."""
    margins = []
    for size, k in zip(image, kernel, strict=True):
        last = (-(-size // stride) - 1) * stride
        total = max(last + k - size, 0)
        margins.append((total // 2, total - total // 2, last + 1))
    return margins


def _patches(a: Array, b: Array, *, out: str, **sizes: Any) -> Array:
    """Patches [t, positions, a b i] and one matrix product, batched over tasks."""
    shape = _out_shape(out, a, b, **sizes)
    tasks = shape[0]
    if out == "y":
        p = _extract(a, **sizes).reshape(tasks, -1, b[0, ..., 0].size)
        return jnp.einsum("tpk,tko->tpo", p, b.reshape(tasks, -1, b.shape[4])).reshape(shape)
    y = b.reshape(tasks, -1, b.shape[4])
    if out == "w":
        p = _extract(a, **sizes).reshape(tasks, y.shape[1], -1)
        # The other way round the product takes 1.6 times as long on CPU.
        return jnp.einsum("tpo,tpk->tok", y, p).swapaxes(1, 2).reshape(shape)
    p = jnp.einsum("tpo,tko->tpk", y, a.reshape(tasks, -1, a.shape[4]))
    return _overlap_add(p.reshape(*b.shape[:4], *sizes["kernel"], -1), **sizes)


def _kernel_in_chunks(x: Array, y: Array, **sizes: Any) -> Array:
    """The kernel's gradient [t, a, b, i, o], summed over chunks of images.

    XLA's own is a convolution with a kernel as large as the image, 4 to 5 times as slow on CPU.
    """
    patch = math.prod(sizes["kernel"]) * x.shape[4] * x.dtype.itemsize
    size = max(1, _CHUNK_BYTES // (math.prod(y.shape[2:4]) * patch))
    chunks = x.shape[1] // size

    def of_images(x: Array, y: Array) -> Array:
        return _patches(x[None], y[None], out="w", **sizes)[0]

    def of_task(xy: tuple[Array, Array]) -> Array:
        many = [v[: chunks * size].reshape(chunks, size, *v.shape[1:]) for v in xy]
        rest = [v[chunks * size :] for v in xy]
        zero = _like(jnp.zeros((*sizes["kernel"], x.shape[4], y.shape[4]), x.dtype), x)
        first = of_images(*rest) if rest[0].shape[0] else zero
        return lax.scan(lambda total, part: (total + of_images(*part), None), first, many)[0]

    return lax.map(of_task, (x, y))


def _extract(x: Array, *, stride: int, image: tuple[int, int], kernel: tuple[int, int]) -> Array:
    """[t, n, H, W, i] -> [t, n, h, w, a b i], the order of a kernel's entries."""
    (top, bottom, end), (left, right, end2) = _margins(stride, image, kernel)
    x = jnp.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right), (0, 0)])
    shifts = [(i, j) for i in range(kernel[0]) for j in range(kernel[1])]
    pieces = [x[:, :, i : i + end : stride, j : j + end2 : stride] for i, j in shifts]
    return jnp.concatenate(pieces, axis=-1)


def _overlap_add(
    p: Array, *, stride: int, image: tuple[int, int], kernel: tuple[int, int]
) -> Array:
    """The transpose of `_extract`: [t, n, h, w, a, b, i] -> [t, n, H, W, i].

    Rows and columns of one remainder by the stride form a grid of their own, on which every
    overlap is a shift by whole steps; the grids are interleaved at the end.
    """
    s, (t, n, h, w, _, _, c) = stride, p.shape
    (top, _, _), (left, _, _) = _margins(stride, image, kernel)
    more, more2 = ((k - 1) // s for k in kernel)

    def grid(r: int, q: int) -> Array:
        taps = [(i, j) for i in range(r, kernel[0], s) for j in range(q, kernel[1], s)]
        total = jnp.zeros((t, n, h + more, w + more2, c), p.dtype)
        for i, j in taps:
            rows, cols = (i // s, more - i // s), (j // s, more2 - j // s)
            total += jnp.pad(p[:, :, :, :, i, j], [(0, 0), (0, 0), rows, cols, (0, 0)])
        return total

    lines = [jnp.stack([grid(r, q) for q in range(s)], axis=4) for r in range(s)]
    x = jnp.stack(lines, axis=3).reshape(t, n, s * (h + more), s * (w + more2), c)
    return x[:, :, top : top + image[0], left : left + image[1]]


def _cpu(a: Array, b: Array, *, out: str, **sizes: Any) -> Array:
    """Patches where they are few or no larger than `y`, or where XLA would dilate.

    Else native; and patches in chunks for the gradient to the kernel.
    """
    have = dict(zip(_INPUTS[out], (a, b), strict=True))
    w = have.get("w")
    tasks, i, o = a.shape[0], a.shape[4] if w is None else w.shape[3], b.shape[4]
    positions = b.size // o if "y" in have else math.prod(_out_shape(out, a, b, **sizes)[:4])
    width = i * math.prod(sizes["kernel"])
    few = tasks > 1 and positions * width * a.dtype.itemsize <= _PATCH_BYTES
    small = width <= o or few
    dilated = out == "x" and sizes["stride"] > 1
    if out == "w" and not small:
        return _kernel_in_chunks(a, b, **sizes)
    patches = small or dilated or tasks > _MOST_UNROLLED
    return (_patches if patches else _native)(a, b, out=out, **sizes)


LOWERINGS = {
    "patches": _patches,
    "grouped": _grouped,
    "vmap": _vmapped,
    "loop": _loop,
    "unrolled": _native,
}


def _lowered(default: Any) -> Any:
    def lowered(a: Array, b: Array, *, lowering: str | None, **params: Any) -> Array:
        return (default if lowering is None else LOWERINGS[lowering])(a, b, **params)

    return mlir.lower_fun(lowered, multiple_results=False)


def _impl(*args: Array, **params: Any) -> Array:
    return _jitted(*args, **params)


_conv_p = Primitive("lml_conv2d")
_jitted = jax.jit(_conv_p.bind, static_argnames=("out", "lowering", "stride", "image", "kernel"))
_conv_p.def_impl(_impl)
_conv_p.def_abstract_eval(_abstract)
ad.defbilinear(_conv_p, partial(_transpose, 0), partial(_transpose, 1))
batching.primitive_batchers[_conv_p] = _batch
mlir.register_lowering(_conv_p, _lowered(_patches))
mlir.register_lowering(_conv_p, _lowered(_cpu), platform="cpu")
