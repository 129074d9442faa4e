"""Prototypical Networks: classify by the distance to class means in an embedding."""

from lml_jax.heads import head_learner, nearest_mean
from lml_jax.types import Learner, Net


def protonet(
    net: Net, *, classes: int, distance: str = "squared", temperature: bool = False
) -> Learner:
    """A learner whose classes are the means of their embedded support examples.

    c_k = 1/|S_k| sum_{x in S_k} f_theta(x), p(y = k | x) proportional to
    exp(-tau d(f_theta(x), c_k)).

    The parameters are {"net", "head"}; `fast` is a `heads.Statistics`. Going on from
    `fast` gives what all examples at once would give, in any order, as long as the embedding of an
    example does not depend on its batch: a net with batch statistics is frozen for that, see
    `Net.freeze`.

    Args:
        net: f_theta, from x [n, ...] to embeddings [n, d].
        classes: C, labels 0..C-1; a class without support examples has the logit -inf.
        distance: "squared" Euclidean, the published choice, "euclidean", or "cosine".
        temperature: learn tau > 0, else it is 1.

    Returns:
        A `Learner`.

    Raises:
        ValueError: for an unknown distance or no class; in `adapt`, outside jit, for a first
            support set that misses a class, labels past the range, or embeddings that are not
            finite. Inside jit the last two make the logits NaN.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.types import Batch
        >>> learner = protonet(nets.mlp([16], 8), classes=2)
        >>> support = Batch(jnp.array([[0.0], [1.0]]), jnp.array([0, 1]))
        >>> params = learner.init(jax.random.key(0), support.x)
        >>> fast = learner.adapt(params, support, jax.random.key(1))
        >>> learner.predict(params, fast, support.x).argmax(1).tolist()
        [0, 1]

    Source:
        Snell, Swersky, Zemel. Prototypical Networks for Few-shot Learning, 2017, equations 1, 2.
    """
    head = nearest_mean(distance=distance, temperature=temperature)
    return head_learner(net, head, classes=classes)
