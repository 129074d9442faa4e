"""Online-aware meta-learning (OML): a head learns example by example on a representation."""

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.checks import possible
from lml_jax.pixels import on_floats
from lml_jax.types import Batch, ExampleLoss, Key, Learner, Net, Params


def oml(
    net: Net,
    *,
    classes: int,
    rate: float = 0.03,
    loss: ExampleLoss = losses.cross_entropy,
    first_order: bool = False,
) -> Learner:
    """A learner whose representation is meta-trained for a head that learns a sequence online.

    z = phi(x); over the support examples in their order, each seen once,
    W_{k+1} = W_k - rate grad_W l(W_k; z_k, y_k). The outer loop trains phi and W_0, through every
    step (second order). phi is computed once for all examples of the support set.

    The parameters are {"net", "head"}; `fast` is the head {"kernel", "bias"}, and going on from it
    continues the sequence: `lifelong.streaming` is the meta-test phase, `lifelong_maml` the
    meta-training along a stream, with its loss on past tasks as the "remember" set.

    Args:
        net: phi, [n, ...] -> [n, d].
        classes: C outputs of the head.
        rate: inner step size, > 0.
        loss: of one example.
        first_order: take the inner gradients as constants in the outer gradient.

    Returns:
        A `Learner`; its `inner_step` is one pass over the support set.

    Raises:
        ValueError: for no class, or a rate that is not positive; in `adapt`, where they are known,
            for labels outside -1..C-1.

    Example:
        >>> from lml_jax import nets
        >>> learner = oml(nets.mlp([64], 32), classes=5)
        >>> params = learner.init(jax.random.key(0), jnp.zeros((1, 3)))
        >>> params["head"]["kernel"].shape
        (32, 5)

    Source:
        Javed, White. Meta-Learning Representations for Continual Learning, 2019, algorithm 2,
        https://arxiv.org/abs/1905.12588. The authors' code also draws the rows of the head anew for
        the classes of each trajectory; here they are those of W_0.
    """
    if classes < 1 or not possible(lambda r: r > 0, rate):
        raise ValueError(f"classes must be at least 1 and rate above 0, got {classes} and {rate}")

    net = on_floats(net)

    def init(key: Key, x: Array) -> Params:
        key_net, key_head = jax.random.split(key)
        inside = net.init(key_net, x)
        width = jax.eval_shape(net.apply, inside, x).shape[1]
        kernel = jax.nn.initializers.lecun_normal()(key_head, (width, classes))
        return {"net": inside, "head": {"kernel": kernel, "bias": jnp.zeros(classes)}}

    def outputs(head: Params, z: Array) -> Array:
        return z @ head["kernel"] + head["bias"][None]

    def adapt(
        params: Params,
        support: Batch,
        key: Key,
        fast: Params | None = None,
        labels: Array | None = None,
    ) -> Params:
        fast = params["head"] if fast is None else fast
        n = support.y.shape[0]
        if n == 0:
            return fast
        losses.check_labels(losses.as_labels(support.y), classes, support.weight)
        support = losses.fill_padding(support)
        weight = losses.labelled(support, labels)
        z = losses.at_least_float32(net.apply(params["net"], support.x))
        active = jnp.ones(classes, bool) if labels is None else labels
        active = jnp.broadcast_to(active, (n, classes))

        def step(head: Params, example: tuple[Array, ...]) -> tuple[Params, None]:
            one, y, w, row = (leaf[None] for leaf in example)

            def of_head(head: Params) -> Array:
                logits = losses.mask_logits(outputs(head, one), row)
                return w[0] * losses.weighted_mean(loss(logits, y), w)

            grads = jax.grad(of_head)(head)
            grads = jax.lax.stop_gradient(grads) if first_order else grads
            return jax.tree.map(lambda a, g: a - rate * g, head, grads), None

        return jax.lax.scan(step, fast, (z, losses.as_labels(support.y), weight, active))[0]

    def predict(params: Params, fast: Params, x: Array) -> Array:
        return outputs(fast, losses.at_least_float32(net.apply(params["net"], x)))

    return Learner(init, adapt, predict, inner_step=adapt)
