"""Retention losses L_j(theta) of past tasks j for VAML: what keeps it from forgetting them."""

# ruff: noqa: D102 - the docstring of a function type is that of its Protocol

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.generative.vaml import class_model, elbo
from lml_jax.generative.vaml.class_model import Model
from lml_jax.types import Key, Params


class Functions(NamedTuple):
    """VAML with fixed parameters, as functions of m codes h [m, d].

    Attributes:
        decode: (z [m, z], h) -> logits of the pixels [m, p].
        bound: (x [m, p] in 0..1, h, noise [m, z]) -> b(x, h) [m] <= 0, see `elbo.image_bound`.
        factors: (x [m, p]) -> (mean [m, d], precision [m, d]) of the Gaussian factor of each image.
        noise: (key, m) -> standard normal [m, z].
        reconstruction_weight: s, see `elbo.Parts`.
    """

    decode: Callable[[Array, Array], Array]
    bound: Callable[[Array, Array, Array], Array]
    factors: Callable[[Array], tuple[Array, Array]]
    noise: Callable[[Key, int], Array]
    reconstruction_weight: float


class PastLoss(Protocol):
    """Losses [m], in nats, for m codes h [m, d] drawn from the stored posteriors of past classes.

    `model` is VAML as it is trained, `teacher` as it was when the last task was finished.
    """

    def __call__(self, model: Functions, teacher: Functions, h: Array, key: Key, /) -> Array: ...


class VamlRetention(NamedTuple):
    """A variant of the retention loss; `penalty` None is no loss."""

    penalty: PastLoss | None = None


def none() -> VamlRetention:
    """L_j = 0: VAML is trained on the arriving task alone, and forgets.

    Example:
        >>> none().penalty is None
        True
    """
    return VamlRetention()


def align() -> VamlRetention:
    """Divergence of the decoder, and of the code encoder, from the frozen ones.

    L_j = s E_z KL(p'(x|z, h) || p(x|z, h)) + KL(f'(h|x') || f(h|x')), summed over pixels, where
    p' and f' are the frozen decoder and code encoder, x' the mean of p' and s the reconstruction
    weight.

    It is 0 while decoder and encoder have not changed on task j. The second term keeps stored
    codes valid: they are those that the encoder still gives to such images.

    Example:
        >>> align().penalty is None
        False

    Source:
        After Wu, Herranz, Liu, Wang, van de Weijer, Raducanu. Memory Replay GANs: Learning to
        Generate Images from New Categories without Forgetting, 2018.
        https://arxiv.org/abs/1809.02058
    """

    def penalty(model: Functions, teacher: Functions, h: Array, key: Key) -> Array:
        z = model.noise(key, h.shape[0])
        then, now = teacher.decode(z, h), model.decode(z, h)
        x = jax.nn.sigmoid(then)
        moved = losses.bernoulli_nll(now, x) - losses.bernoulli_nll(then, x)
        return model.reconstruction_weight * moved + _factor_divergence(model, teacher, x)

    return VamlRetention(penalty)


def replay() -> VamlRetention:
    """The evidence lower bound of images that the frozen decoder makes.

    L_j = -b(x', h) + KL(f'(h|x') || f(h|x')), with x' the mean of the frozen p'(x|z, h) and f' the
    frozen code encoder; the second term is that of `align`.

    Example:
        >>> replay().penalty is None
        False
    """

    def penalty(model: Functions, teacher: Functions, h: Array, key: Key) -> Array:
        key_image, key_bound = jax.random.split(key)
        z, eps = (model.noise(k, h.shape[0]) for k in (key_image, key_bound))
        x = jax.nn.sigmoid(teacher.decode(z, h))
        return _factor_divergence(model, teacher, x) - model.bound(x, h, eps)

    return VamlRetention(penalty)


# Names for the command line.
VAML_RETENTIONS: dict[str, Callable[[], VamlRetention]] = {
    "none": none,
    "replay": replay,
    "align": align,
}


def functions_of(model: Model, params: Params) -> Functions:
    """VAML with these parameters."""

    def bound(x: Array, h: Array, noise: Array) -> Array:
        return elbo.image_bound(model.parts, params, x, h, noise)[0]

    def factors(x: Array) -> tuple[Array, Array]:
        images = x.reshape(x.shape[0], *model.shape)
        out = model.parts.code_encoder.apply(params["code_encoder"], images)
        mean, log_precision = jnp.split(out, 2, axis=1)
        return mean, jnp.exp(log_precision)

    return Functions(
        decode=partial(class_model.decode, model, params),
        bound=bound,
        factors=factors,
        noise=lambda key, m: class_model.noise(model, params, key, m).z,
        reconstruction_weight=model.parts.reconstruction_weight,
    )


def _factor_divergence(model: Functions, teacher: Functions, x: Array) -> Array:
    """KL(f'(h|x) || f(h|x)) of each image [m, p], f' the teacher's factor."""
    x = jax.lax.stop_gradient(x)
    return losses.gaussian_kl(*teacher.factors(x), *model.factors(x))
