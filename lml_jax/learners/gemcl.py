"""Generative meta-continual learning: a Gaussian posterior of each class in an embedding."""

from lml_jax.heads import gaussian, head_learner
from lml_jax.types import Learner, Net


def gemcl(
    net: Net,
    *,
    classes: int,
    predictive: str = "bayes",
    alpha: float = 100.0,
    beta: float = 1000.0,
) -> Learner:
    """A learner whose classes are Gaussians, inferred from their embedded support examples.

    With a prior on the precisions that is learned with the embedding, and a flat one on the means,
    the posterior given the support set is in closed form, see `heads.gaussian`;
    p(y = k | x) is proportional to its predictive density at f_theta(x).

    The parameters are {"net", "head"}; `fast` is a `heads.Statistics`. Going on from
    `fast` is the sequential posterior update: the same as all examples at once, in any order.

    Args:
        net: f_theta, from x [n, ...] to embeddings [n, d].
        classes: C, labels 0..C-1; a class without support examples has the logit -inf.
        predictive: "bayes", the posterior predictive, or "map", the most probable Gaussian.
        alpha: where the learned shape of the prior begins, > 1/2.
        beta: where its learned rate begins, > 0.

    Returns:
        A `Learner`.

    Raises:
        ValueError: as `protonet`, and for a prior out of range.

    Example:
        >>> from lml_jax import nets
        >>> learner = gemcl(nets.conv4(None), classes=5)

    Source:
        Banayeeanzade, Mirzaiezadeh, Hasani, Soleymani. Generative vs. Discriminative: Rethinking
        The Meta-Continual Learning, 2021, section 4.
    """
    head = gaussian(predictive=predictive, alpha=alpha, beta=beta)
    return head_learner(net, head, classes=classes)
