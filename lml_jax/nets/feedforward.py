"""Multi-layer perceptrons and small convolutional networks, as pairs of pure functions.

Parameters are plain nested dicts, nothing is mutable and there are no running averages, so any
other `Net(init, apply)` takes the place of these; see `bind` for networks with dropout or running
statistics. Images are [n, H, W] or [n, H, W, channels];
uint8 is scaled to [0, 1] inside.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from lml_jax.checks import check_images, check_positive, known
from lml_jax.nets._apply import outputs_of
from lml_jax.nets._batched_conv import conv2d
from lml_jax.pixels import as_float
from lml_jax.types import Key, Net, Params

Norm = Literal["transductive", "group"]
_NORMS = ("transductive", "group")
_FROZEN = ("mean", "var")  # parameters of a normalisation, once its batch statistics are frozen


def mlp(
    hidden: Sequence[int],
    outputs: int,
    *,
    activation: Callable[[Array], Array] = nn.relu,
    scale: float | None = None,
) -> Net:
    """A multi-layer perceptron on x [n, ...], flattened from axis 1.

    Args:
      hidden: widths of the hidden layers, in order; may be empty.
      outputs: width of the last layer, which is linear.
      activation: applied after each hidden layer.
      scale: kernels start at a normal of this standard deviation (MAML: 0.01), truncated at two
        of them; None takes Glorot's.

    Returns:
      A net with outputs [n, outputs].

    Example:
      >>> net = mlp((40, 40), 1)
      >>> x = jnp.ones((10, 1))
      >>> net.apply(net.init(jax.random.key(0), x), x).shape
      (10, 1)
    """
    check_positive(outputs=outputs, **{f"hidden[{i}]": h for i, h in enumerate(hidden)})
    kernel_init = nn.initializers.glorot_uniform() if scale is None else _truncated(scale)
    return _net(Mlp(tuple(hidden), outputs, activation, kernel_init), "mlp", _any_rank)


def conv4(
    outputs: int | None,
    *,
    filters: int = 64,
    pool: bool = False,
    norm: Norm = "transductive",
    group_size: int = 8,
    eps: float = 1e-3,
    norm_features: bool = False,
    channels: int | None = None,
) -> Net:
    """Four blocks of [3x3 convolution, normalisation, ReLU], then a linear head.

    Each block halves the image: with stride 2, then the mean over what is left, as MAML does for
    Omniglot; or with 2x2 max-pooling and all features kept, as for MiniImageNet. Kernels start at
    Glorot's, the head at a normal of standard deviation 0.01, truncated at two of them.

    Args:
      outputs: width of the head; None for no head: the embedding itself.
      filters: channels of each block.
      pool: max-pooling instead of strides.
      norm: "transductive" normalises each channel by the mean and (biased) variance over the batch
        at hand, so that predictions depend on the other images, padding included, until they are
        frozen: `params = net.freeze(params, images)` keeps the statistics of those images;
        "group" normalises groups of channels within each image.
        Frozen statistics are parameters without a gradient; weight decay would still move them,
        see `updates.freeze`.
      group_size: channels in a group, for "group".
      eps: added to the variance.
      norm_features: normalise the features of each example to mean 0 and variance 1 before the
        head (LayerNorm without parameters). A classifier that is trained on one task after another
        needs it: one large component that all features share takes over its gradient otherwise,
        and its ReLUs die.
      channels: of the images, on the last axis; None for any, and shapes that look like
        [n, channels, H, W] are refused.

    Returns:
      A net with outputs [n, outputs], or embeddings [n, features].

    Example:
      >>> net = conv4(5, norm="group")
      >>> x = jnp.zeros((2, 28, 28), jnp.uint8)
      >>> net.apply(net.init(jax.random.key(0), x), x).shape
      (2, 5)

    Reference:
      C. Finn, P. Abbeel, S. Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep
      Networks, https://arxiv.org/abs/1703.03400, section 5.2 and its code.
    """
    check_positive(
        filters=filters, group_size=group_size, outputs=1 if outputs is None else outputs
    )
    known(norm, _NORMS, what="norm")
    if norm == "group" and filters % group_size:
        raise ValueError(f"filters {filters} is not a multiple of group_size {group_size}")
    groups = filters // group_size if norm == "group" else None
    module = _Conv4(outputs, filters, pool, groups, eps, norm_features)
    least = 16 if pool else 1
    return _net(module, "conv4", _as_images(least, channels), freezes=norm == "transductive")


def _net(
    module: nn.Module, name: str, shaped: Callable[[str, Array], Array], *, freezes: bool = False
) -> Net:
    def init(key: Key, x: Array) -> Params:
        example = jax.eval_shape(lambda x: shaped(name, _as_float(name, x)), x)
        return module.lazy_init(key, example)["params"]

    def apply(params: Params, x: Array) -> Array:
        return outputs_of(module, params, shaped(name, _as_float(name, x)))

    def freeze(params: Params, x: Array) -> Params:
        moving = {
            k: {p: v for p, v in own.items() if p not in _FROZEN} for k, own in params.items()
        }
        x = shaped(name, _as_float(name, x))
        found = module.apply({"params": moving}, x, mutable=["statistics"])[1]["statistics"]
        return {k: {**own, **found.get(k, {})} for k, own in moving.items()}

    return Net(init, apply, freeze if freezes else None)


def _as_float(name: str, x: Array) -> Array:
    x = as_float(jnp.asarray(x))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} takes floats, or images of uint8, got {x.dtype.name}")
    return x


def _any_rank(name: str, x: Array) -> Array:
    if x.ndim < 2:
        raise ValueError(f"{name} takes x [n, ...] of rank 2 or more, got shape {x.shape}")
    return x.reshape(x.shape[0], -1)


def _as_images(least: int, channels: int | None) -> Callable[[str, Array], Array]:
    def shaped(name: str, x: Array) -> Array:
        check_images(x, what=name, channels=channels)
        if min(x.shape[1:3]) < least:
            raise ValueError(
                f"{name} takes images of at least {least}x{least}, got shape {x.shape}"
            )
        return x if x.ndim == 4 else x[..., None]

    return shaped


def _truncated(scale: float) -> nn.initializers.Initializer:
    return nn.initializers.truncated_normal(scale)


class Mlp(nn.Module):
    """Linear layers with an activation between them, on x [n, d]."""

    hidden: tuple[int, ...]
    outputs: int
    activation: Callable[[Array], Array]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Outputs [n, outputs]."""
        for i, width in enumerate(self.hidden):
            x = self.activation(Linear(width, self.kernel_init, name=f"layer{i + 1}")(x))
        return Linear(self.outputs, self.kernel_init, name="head")(x)


class Linear(nn.Module):
    """x W + b, in the type of W."""

    outputs: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Outputs [n, outputs] of x [n, d]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.outputs), x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.outputs,), x.dtype)
        return x.astype(kernel.dtype) @ kernel + bias[None, :]


class _Conv4(nn.Module):
    outputs: int | None
    filters: int
    pool: bool
    groups: int | None  # None: one statistic a channel, over the batch
    eps: float
    norm_features: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(4):
            x = _Conv(self.filters, stride=1 if self.pool else 2, name=f"conv{i + 1}")(x)
            x = nn.relu(_Norm(self.groups, self.eps, name=f"norm{i + 1}")(x))
            x = _max_pool(x) if self.pool else x
        x = x.reshape(x.shape[0], -1) if self.pool else x.mean((1, 2))
        x = _normalised(x, self.eps) if self.norm_features else x
        return x if self.outputs is None else Linear(self.outputs, _truncated(0.01), name="head")(x)


class _Conv(nn.Module):
    filters: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # No bias: the normalisation that follows has one.
        shape = (3, 3, x.shape[-1], self.filters)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, x.dtype)
        return conv2d(x.astype(kernel.dtype), kernel, stride=self.stride)


class _Norm(nn.Module):
    groups: int | None
    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (c,), x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (c,), x.dtype)
        if self.has_variable("params", "mean"):
            frozen: list[Array] = [
                jax.lax.stop_gradient(self.get_variable("params", k)) for k in _FROZEN
            ]
            mean, var = frozen[0], frozen[1]
            centred = x - mean
        else:
            over = _batch_mean if self.groups is None else partial(_group_mean, groups=self.groups)
            mean = over(x)
            centred = x - mean
            var = over(centred * centred)
            if not self.is_initializing():
                for name, value in zip(_FROZEN, (mean, var), strict=True):
                    self.sow("statistics", name, value, reduce_fn=_last, init_fn=lambda: None)
        factor = jax.lax.rsqrt(var + self.eps) * scale[None, None, None, :]
        return centred * factor + bias[None, None, None, :]


def _normalised(x: Array, eps: float) -> Array:
    """Features [n, d] with mean 0 and variance 1 within each example."""
    centred = x - x.mean(1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(1, keepdims=True) + eps)


def _last(_: Any, new: Array) -> Array:
    """What `sow` keeps: the newest."""
    return new


def _batch_mean(x: Array) -> Array:
    """The mean of each channel over [n, H, W, c]; [1, 1, 1, c].

    On the four axes as they are: XLA's gradient of the same mean over [1, n H W, c] takes 5 times
    as long on CPU.
    """
    return x.mean((0, 1, 2), keepdims=True)


def _group_mean(x: Array, groups: int) -> Array:
    """The mean over each image and group of channels of [n, H, W, c]; [n, 1, 1, c]."""
    n, _, _, c = x.shape
    mean = x.reshape(n, -1, c).mean(1).reshape(n, groups, -1).mean(-1, keepdims=True)
    return jnp.broadcast_to(mean, (n, groups, c // groups)).reshape(n, 1, 1, c)


def _max_pool(x: Array) -> Array:
    """2x2 maximum; an odd last row or column is dropped."""
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    a, b, c, d = (x[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1))
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
