"""How well a class code explains an image: bounds on the evidence, and an amortised head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.generative.vaml import posterior
from lml_jax.generative.vaml.posterior import Posterior
from lml_jax.types import Net, Params


class Parts(NamedTuple):
    """The networks of VAML, for codes h of d numbers, latents z and images of p pixels.

    Each treats an image alone: with batch statistics, order and number of the examples would
    matter.
    """

    encode: Net  # x [n, ...] -> (m, log l) of h, [n, 2d]
    recognise: Net  # (x, h) [n, p + d] -> (mean, log precision) of z, [n, 2z]
    decode: Net  # (z, h) [n, z + d] -> logits of the pixels, [n, p]
    head: Net | None = None  # mean of h [C, d] -> (mean, log variance) of weights, [C, 2(d + 1)]
    # How often each pixel counts: above 1 for shades of grey, which are known more precisely than
    # the toss of a coin, so that z has more to say and samples vary as much as the images do.
    sharpness: float = 1.0


class Noise(NamedTuple):
    """Standard normal numbers: of h [d], of z [z]."""

    h: Array
    z: Array


def image_bound(
    parts: Parts, params: Params, x: Array, h: Array, noise: Array
) -> tuple[Array, Array]:
    """A bound on log p(x|h) of each image, from one draw of z; and its divergence term.

    b = s log p(x|z, h) - KL(q(z|x, h) || N(0, 1)),  z ~ q(z|x, h), s = `parts.sharpness`.

    Args:
        parts: the networks.
        params: of the networks.
        x: images, float [n, p] in [0, 1].
        h: float [n, d].
        noise: float [n, z].

    Returns:
        (b [n] <= 0, KL [n] >= 0), in nats.

    Source:
        Kingma, Welling. Auto-Encoding Variational Bayes, 2014, equation 10.
    """
    out = parts.recognise.apply(params["recognise"], jnp.concatenate([x, h], axis=1))
    mean, log_precision = jnp.split(out, 2, axis=1)
    precision = jnp.exp(log_precision)
    z = mean + noise * jax.lax.rsqrt(precision)
    logits = parts.decode.apply(params["decode"], jnp.concatenate([z, h], axis=1))
    kl = losses.gaussian_kl(mean, precision, jnp.zeros_like(mean), jnp.ones_like(mean))
    return -parts.sharpness * losses.bernoulli_nll(logits, x) - kl, kl


def class_bounds(
    parts: Parts, params: Params, fast: Posterior, x: Array, factors: Array, noise: Noise
) -> Array:
    """A bound on log p(x|S_c) of each image under each class code, from one draw of h and z.

    B_c = b(x, h_c) - KL(q(h|S_c, x) || q(h|S_c)),  h_c ~ q(h|S_c, x).

    Args:
        parts: the networks.
        params: of the networks.
        fast: q(h|S_c) of C classes.
        x: images, float [n, p] in [0, 1].
        factors: of the images, (m, log l) [n, 2d].
        noise: of h [d] and z [z], shared by all images and classes, [n, d] and [n, z] by the
            classes alone: differences between classes are then not differences of luck.

    Returns:
        B [n, C] <= 0, in nats.
    """
    n, (c, d) = x.shape[0], fast.mean.shape
    every = jnp.ones((1, c))
    joined = jax.vmap(lambda f: posterior.update(fast, f[None], every))(factors)
    wide = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), fast)
    moved = posterior.divergence(joined, wide)
    of_h = jnp.broadcast_to(noise.h.reshape(-1, 1, d), (n, c, d))
    of_z = jnp.broadcast_to(noise.z.reshape(-1, 1, noise.z.shape[-1]), (n, c, noise.z.shape[-1]))
    rows = jnp.broadcast_to(x[:, None], (n, c, x.shape[1]))
    h = posterior.draw(joined, of_h)
    flat = [leaf.reshape(n * c, -1) for leaf in (rows, h, of_z)]
    return image_bound(parts, params, *flat)[0].reshape(n, c) - moved


def head_logits(parts: Parts, params: Params, fast: Posterior, m: Array, noise: Array) -> Array:
    """Logits of each class by classifier weights inferred from its code, from one draw.

    w_c ~ N(u(mu_c), v(mu_c)), a_c = w_c (m, 1): a is Gaussian, and is drawn itself rather than w.

    Args:
        parts: the networks; `head` is (u, log v).
        params: of the networks.
        fast: q(h|S_c) of C classes, mean mu_c.
        m: the means in the factors of the images, [n, d].
        noise: standard normal, [n, C].

    Returns:
        a [n, C].

    Source:
        Gordon, Bronskill, Bauer, Nowozin, Turner. Meta-Learning Probabilistic Inference for
        Prediction, 2019 (VERSA); here the weights come from the class code.
    """
    assert parts.head is not None
    mean, log_var = jnp.split(parts.head.apply(params["head"], fast.mean), 2, axis=1)
    features = jnp.concatenate([m, jnp.ones((m.shape[0], 1))], axis=1)
    variance = features**2 @ jnp.exp(log_var).T
    return features @ mean.T + jnp.sqrt(variance) * noise


def log_mean_softmax(logits: Array) -> Array:
    """log of the mean over draws of softmax: [L, n, C] -> [n, C].

    Example:
        >>> log_mean_softmax(jnp.zeros((3, 1, 2))).round(3).tolist()
        [[-0.6930000185966492, -0.6930000185966492]]
    """
    each = jax.nn.log_softmax(logits, axis=-1)
    return jax.nn.logsumexp(each, axis=0) - jnp.log(logits.shape[0])
