"""MetaGAN: a few-shot learner that is the discriminator of a generator of its tasks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import check_positive, known
from lml_jax.generative import conditioning as coding
from lml_jax.generative.conditioning import Codes, as_float
from lml_jax.generative.gan._step import LOSSES, check_game
from lml_jax.generative.metagan import _step as sharpening
from lml_jax.generative.metagan._step import ROLES, MetaGanState, Rules
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.train import copy
from lml_jax.types import (
    Batch,
    ConditionalNet,
    ExampleLoss,
    Generator,
    Key,
    Learner,
    Loss,
    Net,
    Params,
)

LEVELS = ("fixed", "learned")


def metagan(
    learner: Learner | Callable[[ExampleLoss], Learner],
    encoder: Net,
    generator: ConditionalNet,
    d_tx: optax.GradientTransformation,
    g_tx: optax.GradientTransformation,
    *,
    classes: int,
    role: str = "negative_class",
    weight: float = 0.25,
    start: int = 0,
    samples: int = 5,
    noise: int = 64,
    loss: str = "non_saturating",
    penalty: float = 0.0,
    level: str = "fixed",
    ema: float = 0.999,
    alternating: bool = True,
    span: tuple[float, float] = (0.0, 1.0),
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> tuple[Learner, Generator]:
    """A learner sharpened by a generator that it has to tell from the examples of each task.

    D is the learner: N logits l and a fake logit fixed at 0, so with s = logsumexp_n l_n + b
    p(y <= N | x) = sigma(s). A set encoder e and G make examples of a task,
    h_T = mean_{x in S_T} e(x), x~ = G([z; h_T]), z ~ N(0, 1). On the query set, after adaptation,
    D descends -E log p(y | x, y <= N) + a E ( l_D(s, s~) + gamma (R1 + R2) ), G and e descend
    E l_G(s, s~). For l = "saturating" or "non_saturating", l_D = -log p(y <= N | x)
    - log p(N + 1 | x~); x are the unlabelled examples, or where a task has none the labelled ones
    without labels. "relativistic" compares pairs of s, and wants a penalty.

    Roles. "negative_class", the paper's: samples have no label and sharpen the boundary; a learner
    that descends a loss descends all three terms in its inner loop too, over S_T beside samples,
    and in the plain form whatever `loss` is. "augment": codes are of classes,
    h_n = mean_{x in S_n} e(x), and samples join the support set with their label, weighing a x the
    real examples; G also descends -log p(y | x~, y <= N). With a = 0 the learner is the base.

    b is 0, as published, for a network with a head: its biases can choose it. Logits that are
    minus distances, or log densities up to a constant, have no such freedom: far below 0, they
    call everything generated. A learned b shifts all N logits alike, which leaves p(y | x, y <= N)
    as it is. The loss "relativistic" sees differences of s, and needs none.

    No batch-norm in the learner: with it generated examples would change what is said of the real
    ones in the inner loop, and one would be judged by the others. GroupNorm does neither.

    Args:
        learner: the base. One that descends a loss comes as a function from that loss to the
            learner, which must descend its mean: `lambda loss: maml(net, rule, steps=1,
            loss=loss)`; a metric learner as it is, `protonet(net, classes=N)`.
        encoder: e, x [n, ...] -> [n, k].
        generator: (z [n, noise], h [n, k]) -> examples in (-1, 1).
        d_tx: update rule of {"learner": parameters of the base, "level": b / 100}.
        g_tx: update rule of {"encoder", "generator"}.
        classes: N of an episode.
        role: "negative_class" or "augment".
        weight: a, in [0, 1].
        start: meta-steps before samples join the support set, >= 0; as negatives, before they
            count at all. Learner.adapt itself does not wait.
        samples: generated examples in each support set; on the query set one for each example.
        noise: dimensions of z.
        loss: "saturating" (the equation), "non_saturating" or "relativistic".
        penalty: gamma >= 0, of R1 + R2: how steep s may be at each example.
        level: "fixed", b = 0, or "learned".
        ema: decay of the moving average of e and G, in [0, 1).
        alternating: G moves against the new D; else both move at once.
        span: the range of the examples; images of uint8 become floats in 0..1.
        reduce: as in `train.make_train_step`.

    Returns:
        A `Learner` and a `Generator` over the same parameters, {"d": {"learner", "level"},
        "g": {"encoder", "generator"}}; `state.averaged` holds them with the moving average of "g",
        which `encode` and `sample` use. A code is a `Codes`, [N, k] with role "augment", else
        [1, k], whose samples have y = -1. Metrics, in the mean over tasks: `loss` of D, its parts
        `cross_entropy` and `d_loss`, `accuracy`, `g_loss`; `d_real` and `d_fake`, the shares with
        s > 0 of real and s < 0 of generated examples; `d_accuracy`, of pairs in which the real one
        scores higher; `spread`, the `spread_ratio` within classes, or within the task.

    Raises:
        ValueError: for unknown names, numbers out of range; in `init`, for a generator of other
            shapes, or a learner whose output for an example depends on its batch; for examples
            outside `span`; in `sample`, for n < 1 or no code. Values are seen outside jit only.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> net = nets.mlp([16], 3)
        >>> learner, generator = metagan(
        ...     lambda loss: maml(net, optax.sgd(0.1), steps=1, loss=loss), nets.mlp([16], 8),
        ...     nets.generator([16], (6, 6)), optax.adam(1e-3), optax.adam(1e-3), classes=3)
        >>> support = Batch(jnp.zeros((4, 6, 6)), jnp.array([0, 1, 2, -1]))
        >>> state = generator.init(jax.random.key(0), support.x)
        >>> fast = learner.adapt(state.averaged, support, jax.random.key(1))
        >>> code = generator.encode(state, support, jax.random.key(2))
        >>> generator.sample(state, code, jax.random.key(3), n=2).y.tolist()
        [-1, -1]

    Source:
        Zhang, Che, Ghahramani, Bengio, Song. MetaGAN: An Adversarial Approach to Few-Shot
        Learning, 2018; the role "augment", the level and the relativistic form are ours.
    """
    check_positive(classes=classes, samples=samples, noise=noise)
    check_game(penalty, ema, span)
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of generated examples must be in [0, 1], got {weight}")
    if start < 0:
        raise ValueError(f"start must be at least 0, got {start}")
    known(role, ROLES, what="role of generated examples")
    known(level, LEVELS, what="level")
    l_d, l_g = LOSSES[known(loss, LOSSES, what="GAN loss")]
    rules = Rules(
        base=learner if isinstance(learner, Learner) else learner(losses.cross_entropy),
        descending=None if isinstance(learner, Learner) else learner,
        encoder=encoder,
        generator=generator,
        d_tx=d_tx,
        g_tx=g_tx,
        l_d=l_d,
        l_g=l_g,
        classes=classes,
        role=role,
        weight=weight,
        start=start,
        samples=samples,
        noise=noise,
        penalty=penalty,
        level=level,
        ema=ema,
        alternating=alternating,
        span=span,
        reduce=reduce,
    )
    sharpened = Learner(partial(_params, rules), partial(_adapt, rules), partial(_predict, rules))
    return sharpened, Generator(
        init=partial(_init, rules),
        encode=partial(_encode, rules),
        step=partial(sharpening.step, rules),
        sample=partial(_sample, rules),
    )


def _params(rules: Rules, key: Key, x_example: Array) -> Params:
    x = jnp.asarray(x_example)
    coding.check_range(x, rules.span)
    key_d, key_encoder, key_generator = jax.random.split(key, 3)
    learner = rules.base.init(key_d, x)
    if rules.weight:
        _check_alone(rules, learner, x)
    x, z = as_float(x[:1]), jnp.zeros((1, rules.noise))
    encoder = rules.encoder.init(key_encoder, x)
    h = rules.encoder.apply(encoder, x)
    generator = rules.generator.init(key_generator, z, h)
    shape = jax.eval_shape(rules.generator.apply, generator, z, h).shape[1:]
    if shape != x.shape[1:]:
        raise ValueError(f"the generator makes {shape}, expected examples of {x.shape[1:]}")
    return {
        "d": {"learner": learner, "level": jnp.zeros(())},
        "g": {"encoder": encoder, "generator": generator},
    }


def _check_alone(rules: Rules, params: Params, x: Array) -> None:
    """Raise where an output depends on what else is in its batch; inside jit nothing can."""
    if isinstance(jax.tree.leaves(params)[0], jax.core.Tracer):
        return
    key_x, key_adapt = jax.random.split(jax.random.key(0))
    low, high = rules.span
    noise = jax.random.uniform(key_x, (rules.classes, *x.shape[1:]), float, low, high)
    support = Batch(noise, jnp.arange(rules.classes, dtype=jnp.int32))

    @jax.jit  # one compilation instead of one for each operation
    def both(params: Params) -> tuple[Array, Array]:
        fast = rules.base.adapt(params, support, key_adapt)
        predict = partial(rules.base.predict, params, fast)
        return predict(noise)[:1], predict(noise[:1])

    beside, alone = both(params)
    # Batch statistics move an output by its own size; rounding on any device by far less.
    if jnp.abs(beside - alone).max() > 0.03 * jnp.abs(beside).max():
        raise ValueError(
            "the learner's output for an example depends on the others of its batch (batch "
            'statistics?): expected a net such as `nets.conv4(..., norm="group")`'
        )


def _adapt(
    rules: Rules,
    params: Params,
    support: Batch,
    key: Key,
    fast: Any = None,
    labels: Array | None = None,
) -> Any:
    coding.check_range(support.x, rules.span)
    support = support._replace(x=as_float(support.x))
    return sharpening.adapt(rules, params, support, key, fast, labels)


def _predict(rules: Rules, params: Params, fast: Any, x: Array) -> Array:
    coding.check_range(x, rules.span)
    return rules.base.predict(params["d"]["learner"], fast, as_float(x))


def _init(rules: Rules, key: Key, x_example: Array) -> MetaGanState:
    params = _params(rules, key, x_example)
    fine = jnp.full((), -1, jnp.int32)
    made = MetaGanState(
        step=jnp.zeros((), jnp.int32),
        bad_step=fine,
        bad_net=fine,
        params=params,
        d_opt=rules.d_tx.init(params["d"]),
        g_opt=rules.g_tx.init(params["g"]),
        ema=params["g"],
    )
    # In buffers of its own: what is donated may not hold one twice.
    return copy(made)


def _encode(rules: Rules, state: MetaGanState, support: Batch, key: Key) -> Codes:
    coding.check_range(support.x, rules.span)
    return sharpening.encode(rules, state.ema, support)


def _sample(rules: Rules, state: MetaGanState, code: Codes | None, key: Key, *, n: int) -> Batch:
    if n < 1:
        raise ValueError(f"expected at least 1 generated sample, got n = {n}")
    if code is None:
        raise ValueError("no task is kept here: expected a code, from `encode`")
    coding.check_learned(code, jnp.ones_like(code.mask))
    return sharpening.render(rules, state.ema, code, key, n=n)
