"""The trilinear form of `_batched_conv`, computed in several ways.

Each takes the two inputs that are given and `out`, the letter of the third; see `INPUTS`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

# x [t, n, H, W, i], w [t, a, b, i, o], y [t, n, h, w, o]: the two that are given, for each output.
INPUTS = {"y": ("x", "w"), "x": ("w", "y"), "w": ("x", "y")}

# Above this many bytes, writing the patches of several tasks costs more than one matrix product for
# all of them saves; for one task it always does.
_PATCH_BYTES = 2**24
# Patches of so many bytes at a time stay in the cache between being written and multiplied.
_CHUNK_BYTES = 2**20
# More convolutions than this, side by side, take too long to compile.
_MOST_UNROLLED = 64


def like(a: Array, other: Array) -> Array:
    """`a`, marked as varying over the mesh axes of `shard_map` over which `other` does."""
    axes = tuple(_varying(other) - _varying(a))
    return lax.pcast(a, axes, to="varying") if axes else a


def _varying(a: Array) -> frozenset:
    aval: Any = jax.typeof(a)
    manual = getattr(aval, "mat", None)  # jax 0.10 moved `vma` there
    return manual.varying if manual is not None else getattr(aval, "vma", frozenset())


def out_shape(
    out: str, a: Any, b: Any, *, stride: int, image: tuple[int, int], kernel: tuple[int, int]
) -> tuple[int, ...]:
    if out == "y":
        h, w = (-(-size // stride) for size in image)
        return (*a.shape[:2], h, w, b.shape[4])
    if out == "x":
        return (*b.shape[:2], *image, a.shape[3])
    return (a.shape[0], *kernel, a.shape[4], b.shape[4])


def native(a: Array, b: Array, *, out: str, **sizes: Any) -> Array:
    """One ordinary convolution per task, side by side in the program; `out` is "y" or "x"."""
    return jnp.stack([_native_one(a[t], b[t], out=out, **sizes) for t in range(a.shape[0])])


def grouped(a: Array, b: Array, *, out: str, **sizes: Any) -> Array:
    """One convolution for all tasks, each a group of channels, and the transposes JAX makes of it.

    XLA recognises these transposes as the gradients of a convolution.
    """
    convolve = jax.vmap(lambda x, w: _native_one(x, w, out="y", **sizes))
    if out == "y":
        return convolve(a, b)
    given = (lambda x: convolve(x, a)) if out == "x" else (lambda w: convolve(a, w))
    wanted = like(jnp.zeros(out_shape(out, a, b, **sizes), a.dtype), a)
    return jax.linear_transpose(given, wanted)(b)[0]


def _native_one(
    a: Array, b: Array, *, out: str, stride: int, image: tuple[int, int], kernel: tuple[int, int]
) -> Array:
    """One task's convolution, or its gradient to the images."""
    h, w = _margins(stride, image, kernel)
    s, one = (stride, stride), (1, 1)
    if out == "y":
        return lax.conv_general_dilated(
            a, b, s, [h[:2], w[:2]], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    pads = [
        (k - 1 - m[0], size + m[0] - m[2]) for m, size, k in zip((h, w), image, kernel, strict=True)
    ]
    # Channels swapped by hand: a kernel declared as HWOI runs 5 times as long inside a loop.
    turned = a[::-1, ::-1].swapaxes(2, 3)
    return lax.conv_general_dilated(
        b, turned, one, pads, s, one, dimension_numbers=("NHWC", "HWIO", "NHWC")
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


def patches(a: Array, b: Array, *, out: str, **sizes: Any) -> Array:
    """Patches [t, positions, a b i] and one matrix product, batched over tasks."""
    shape = out_shape(out, a, b, **sizes)
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
        return patches(x[None], y[None], out="w", **sizes)[0]

    def of_task(xy: tuple[Array, Array]) -> Array:
        many = [v[: chunks * size].reshape(chunks, size, *v.shape[1:]) for v in xy]
        rest = [v[chunks * size :] for v in xy]
        zero = like(jnp.zeros((*sizes["kernel"], x.shape[4], y.shape[4]), x.dtype), x)
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


def for_cpu(a: Array, b: Array, *, out: str, **sizes: Any) -> Array:
    """Patches where they are few or no larger than `y`, or where XLA would dilate.

    Else native; and patches in chunks for the gradient to the kernel.
    """
    have = dict(zip(INPUTS[out], (a, b), strict=True))
    w = have.get("w")
    tasks, i, o = a.shape[0], a.shape[4] if w is None else w.shape[3], b.shape[4]
    positions = b.size // o if "y" in have else math.prod(out_shape(out, a, b, **sizes)[:4])
    width = i * math.prod(sizes["kernel"])
    few = tasks > 1 and positions * width * a.dtype.itemsize <= _PATCH_BYTES
    small = width <= o or few
    dilated = out == "x" and sizes["stride"] > 1
    if out == "w" and not small:
        return _kernel_in_chunks(a, b, **sizes)
    form = patches if small or dilated or tasks > _MOST_UNROLLED else native
    return form(a, b, out=out, **sizes)
