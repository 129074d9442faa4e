"""How well a class code explains an image: evidence lower bounds, and an amortised classifier."""

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

    Each works on an image alone: with batch statistics, the order and the number of the examples
    would matter.

    Attributes:
        code_encoder: x [n, ...] -> (m, log l) [n, 2d], the Gaussian factor of an image in q(h|S).
        latent_encoder: (x, h) [n, p + d] -> (mean, log precision) [n, 2z] of q(z|x, h).
        decoder: (z, h) [n, z + d] -> logits of the pixels [n, p], p(x|z, h).
        head: mean of h [C, d] -> (mean, log variance) of classifier weights [C, 2(d + 1)]; or
            None.
        reconstruction_weight: s > 0, the weight of log p(x|z, h) against the divergence of z (1
            over the beta of a beta-VAE). Above 1 for grey values, which are more precise than a
            Bernoulli variable: then z carries more, and samples are as diverse as the images.
    """

    code_encoder: Net
    latent_encoder: Net
    decoder: Net
    head: Net | None = None
    reconstruction_weight: float = 1.0


class Noise(NamedTuple):
    """Standard normal numbers: of h [d], of z [z]."""

    h: Array
    z: Array


def image_bound(
    parts: Parts, params: Params, x: Array, h: Array, noise: Array
) -> tuple[Array, Array]:
    """A lower bound on log p(x|h) of each image, from one draw of z; and its divergence term.

    b = s log p(x|z, h) - KL(q(z|x, h) || N(0, I)),  z ~ q(z|x, h), s = `reconstruction_weight`.

    Args:
        parts: the networks.
        params: of the networks.
        x: images, float [n, p] in 0..1.
        h: codes, float [n, d].
        noise: float [n, z].

    Returns:
        (b [n] <= 0, KL [n] >= 0), in nats.

    Example:
        >>> from lml_jax import nets
        >>> latent, decoder = nets.mlp([], 2), nets.mlp([], 3)
        >>> params = {"latent_encoder": latent.init(jax.random.key(0), jnp.zeros((1, 5))),
        ...           "decoder": decoder.init(jax.random.key(1), jnp.zeros((1, 3)))}
        >>> parts = Parts(nets.mlp([], 4), latent, decoder)
        >>> bound, kl = image_bound(parts, params, jnp.zeros((1, 3)), jnp.zeros((1, 2)),
        ...                         jnp.zeros((1, 1)))
        >>> round(float(bound[0]), 3), float(kl[0])  # three pixels of probability 1/2
        (-2.079, 0.0)

    Source:
        Kingma, Welling. Auto-Encoding Variational Bayes, 2014, equation 10.
        https://arxiv.org/abs/1312.6114
    """
    out = parts.latent_encoder.apply(params["latent_encoder"], jnp.concatenate([x, h], axis=1))
    mean, log_precision = jnp.split(out, 2, axis=1)
    precision = jnp.exp(log_precision)
    z = mean + noise * jax.lax.rsqrt(precision)
    logits = parts.decoder.apply(params["decoder"], jnp.concatenate([z, h], axis=1))
    kl = losses.gaussian_kl(mean, precision, jnp.zeros_like(mean), jnp.ones_like(mean))
    return -parts.reconstruction_weight * losses.bernoulli_nll(logits, x) - kl, kl


def class_bounds(
    parts: Parts, params: Params, fast: Posterior, x: Array, factors: Array, noise: Noise
) -> Array:
    """A lower bound on log p(x|S_c) of each image under each class, from one draw of h and z.

    B_c = b(x, h_c) - KL(q(h|S_c, x) || q(h|S_c)),  h_c ~ q(h|S_c, x).

    Args:
        parts: the networks.
        params: of the networks.
        fast: q(h|S_c) of C classes.
        x: images, float [n, p] in 0..1.
        factors: of the images, (m, log l) [n, 2d].
        noise: of h [d] and z [z], shared by all images and classes; or [n, d] and [n, z], shared
            by the classes: then differences between classes are not due to the noise.

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

    w_c ~ N(u(mu_c), v(mu_c)), a_c = w_c (m, 1). Given m, a is Gaussian, so a is drawn and not w.

    Args:
        parts: the networks; `head` is (u, log v).
        params: of the networks.
        fast: q(h|S_c) of C classes, mean mu_c.
        m: the means in the factors of the images, [n, d].
        noise: standard normal, [n, C]; or [1, C], shared by the images.

    Returns:
        a [n, C].

    Source:
        Gordon, Bronskill, Bauer, Nowozin, Turner. Meta-Learning Probabilistic Inference for
        Prediction, 2019 (VERSA), https://arxiv.org/abs/1805.09921; here the weights come from the
        class code.
    """
    assert parts.head is not None
    mean, log_var = jnp.split(parts.head.apply(params["head"], fast.mean), 2, axis=1)
    features = jnp.concatenate([m, jnp.ones((m.shape[0], 1))], axis=1)
    variance = features**2 @ jnp.exp(log_var).T
    return features @ mean.T + jnp.sqrt(variance) * jnp.broadcast_to(noise, variance.shape)


def log_mean_softmax(logits: Array) -> Array:
    """log of the mean over draws of softmax: [L, n, C] -> [n, C].

    Example:
        >>> log_mean_softmax(jnp.zeros((3, 1, 2))).round(3).tolist()
        [[-0.6930000185966492, -0.6930000185966492]]
    """
    each = jax.nn.log_softmax(logits, axis=-1)
    return jax.nn.logsumexp(each, axis=0) - jnp.log(logits.shape[0])
