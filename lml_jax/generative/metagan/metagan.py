"""MetaGAN: a few-shot learner trained as the discriminator of a generator of its tasks."""

from collections.abc import Callable
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import check_positive, known, possible
from lml_jax.generative import _adversarial as adversarial
from lml_jax.generative import conditioning as coding
from lml_jax.generative.conditioning import Codes
from lml_jax.generative.metagan import _adapt, _step
from lml_jax.generative.metagan._adapt import LogitOffset, MetaGanSettings, Role
from lml_jax.generative.metagan._step import MetaGanState
from lml_jax.losses import GanLoss
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.pixels import Span, as_float, check_range
from lml_jax.train import copy
from lml_jax.types import (
    Batch,
    ConditionalNet,
    ExampleLoss,
    Fast,
    Key,
    Learner,
    Loss,
    Net,
    Params,
    TaskGenerator,
)

NON_SATURATING = losses.non_saturating()


def metagan(
    learner: Learner | Callable[[ExampleLoss], Learner],
    encoder: Net,
    generator: ConditionalNet,
    d_tx: optax.GradientTransformation,
    g_tx: optax.GradientTransformation,
    *,
    classes: int,
    role: Role = "negative_class",
    generated: int = 5,
    generated_weight: float = 0.25,
    generated_from: int = 0,
    noise: int = 64,
    loss: GanLoss = NON_SATURATING,
    penalty: float = 0.0,
    logit_offset: LogitOffset = "zero",
    ema: float = 0.999,
    alternating: bool = True,
    span: Span = (0.0, 1.0),
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> tuple[Learner, TaskGenerator]:
    """A few-shot learner that also has to tell the examples of a task from generated ones.

    The learner is the discriminator D: it has N class logits l_n, and generated examples are a
    class of their own whose logit is 0. With s = logsumexp_n l_n + b, p(real | x) = sigma(s). A set
    encoder e and a generator G make examples of a task,
    h_T = mean_{x in S_T} e(x), x~ = G([z; h_T]), z ~ N(0, I).

    On the query set, after adaptation, D minimises
    -E log p(y | x, real) + a E ( l_D(s, s~) + gamma (R1 + R2) ),  and G and e minimise
    E l_G(s, s~).
    With the losses `saturating` and `non_saturating`, l_D = -log p(real | x)
    - log p(generated | x~); x are the unlabelled examples of the task or, where it has none, the
    labelled ones without their labels. `relativistic` compares pairs of s, and needs a penalty.

    Roles of the generated examples:

    - "negative_class", as published: they have no label, and train the boundary of the classes. A
      learner with an inner loss minimises all three terms there too, over S_T and generated
      examples, with l_D as above whatever `loss` is.
    - "augment": codes are of classes, h_n = mean_{x in S_n} e(x), and generated examples join the
      support set with their label, and a total weight of a x that of the real ones; G also
      minimises -log p(y | x~, real). With a = 0 the learner is the base learner.

    The logit offset b is 0, as published, for a network with a linear head, whose biases can
    shift the logits. Logits that are negative distances, or log densities up to a constant, cannot
    shift: far below 0, they call everything generated. A learned b shifts all N logits alike, so
    p(y | x, real) does not change. `relativistic` uses differences of s, and needs no offset.

    The learner must not use batch statistics: generated examples would change the predictions of
    real ones, and each would be judged by the others. Use GroupNorm.

    Args:
        learner: the base learner. One with an inner loss is given as a function from that loss to
            the learner, which must minimise its mean: `lambda loss: maml(net, rule, steps=1,
            loss=loss)`; a metric learner is given itself, `protonet(net, classes=N)`.
        encoder: e, x [n, ...] -> [n, k].
        generator: G, (z [n, noise], h [n, k]) -> examples [n, ...] in (-1, 1).
        d_tx: optimiser of {"learner": parameters of the base learner, "offset": b / 100}.
        g_tx: optimiser of {"encoder", "generator"}.
        classes: N >= 1, of an episode.
        role: "negative_class" or "augment".
        generated: generated examples in each support set, >= 1; for the query set there is one per
            example.
        generated_weight: a, in [0, 1].
        generated_from: meta-steps before generated examples join the support set; as negatives,
            before they count at all; >= 0. `Learner.adapt` itself does not wait.
        noise: dimensions of z, >= 1.
        loss: l_D and l_G, from `losses`, or the user's own `GanLoss`.
        penalty: gamma >= 0, the weight of R1 + R2, see `losses.gradient_penalty`.
        logit_offset: "zero", b = 0, or "learned".
        ema: decay of the moving average of e and G, in [0, 1).
        alternating: G is trained against the new D; else both take their step at once.
        span: the range (low, high) of the examples; images of uint8 become floats in 0..1.
        reduce: as in `train.make_train_step`.

    Returns:
        A `Learner` and a `TaskGenerator` over the same parameters, {"d": {"learner", "offset"},
        "g": {"encoder", "generator"}}; `state.averaged` has the moving average as "g", and so do
        `encode` and `sample`. A code is a `Codes`, [N, k] with role "augment", else [1, k], whose
        samples have y = -1. Metrics, in the mean over tasks: `loss` of D, its parts
        `cross_entropy` and `d_loss`, `accuracy`, `g_loss`; `d_real` and `d_fake`, the shares of
        real examples with s > 0 and of generated ones with s < 0; `d_accuracy`, the share of pairs
        in which the real example scores higher; `diversity`, the `diversity_ratio` within classes,
        or within the task (inf where it is undefined); and `bad_step`, `bad_step_discriminator`,
        `bad_step_generator`: the step whose update was refused as non-finite, or -1.

    Raises:
        ValueError: for unknown names and numbers out of range; in `init`, for a generator of other
            shapes, or a learner whose output for an example depends on its batch; for examples
            outside `span` or labels outside -1..N-1; in `sample`, for n < 1 or no code. Values are
            known outside jit only.

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
        Learning, 2018,
        https://papers.nips.cc/paper/2018/hash/4e4e53aa080247bc31d0eb4e7aeb07a0-Abstract.html;
        the role "augment", the learned offset and the relativistic form are ours.
    """
    settings = MetaGanSettings(**locals())  # first, so that these are the arguments, nothing else
    check_positive(classes=classes, generated=generated, noise=noise)
    adversarial.check_settings(penalty, ema, span)
    if not possible(lambda w: 0 <= w <= 1, generated_weight):
        raise ValueError(f"generated_weight must be in [0, 1], got {generated_weight}")
    if generated_from < 0:
        raise ValueError(f"generated_from must be at least 0, got {generated_from}")
    known(role, get_args(Role), what="role of generated examples")
    known(logit_offset, get_args(LogitOffset), what="logit offset")
    steps = settings.base.inner_step is not None
    trained = Learner(
        partial(_params, settings),
        partial(_adapt_to, settings),
        partial(_predict, settings),
        inner_step=partial(_adapt_to, settings, one_step=True) if steps else None,
    )
    return trained, TaskGenerator(
        init=partial(_init, settings),
        step=partial(_step.step, settings),
        encode=partial(_encode, settings),
        sample=partial(_sample, settings),
    )


def _params(settings: MetaGanSettings, key: Key, x: Array) -> Params:
    x = jnp.asarray(x)
    check_range(x, settings.span)
    key_d, key_encoder, key_generator = jax.random.split(key, 3)
    learner = settings.base.init(key_d, x)
    if settings.generated_weight:
        _check_no_batch_statistics(settings, learner, x)
    x, z = as_float(x[:1]), jnp.zeros((1, settings.noise))
    encoder = settings.encoder.init(key_encoder, x)
    h = settings.encoder.apply(encoder, x)
    generator = settings.generator.init(key_generator, z, h)
    makes = jax.eval_shape(settings.generator.apply, generator, z, h).shape[1:]
    adversarial.check_shapes(makes, x.shape[1:])
    return {
        "d": {"learner": learner, "offset": jnp.zeros(())},
        "g": {"encoder": encoder, "generator": generator},
    }


def _check_no_batch_statistics(settings: MetaGanSettings, params: Params, x: Array) -> None:
    """Raise where an output depends on what else is in its batch; inside jit nothing is known."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params)):
        return
    key_x, key_adapt = jax.random.split(jax.random.key(0))
    low, high = settings.span
    noise = jax.random.uniform(key_x, (settings.classes, *x.shape[1:]), float, low, high)
    support = Batch(noise, jnp.arange(settings.classes, dtype=jnp.int32))

    @jax.jit  # one compilation instead of one for each operation
    def outputs(params: Params) -> tuple[Array, Array]:
        fast = settings.base.adapt(params, support, key_adapt)
        predict = partial(settings.base.predict, params, fast)
        return predict(noise)[:1], predict(noise[:1])

    together, alone = outputs(params)
    # Batch statistics move an output by its own size; rounding on any device by far less.
    if jnp.abs(together - alone).max() > 0.03 * jnp.abs(together).max():
        raise ValueError(
            "the learner's output for an example depends on the others of its batch (batch "
            'statistics?): expected a net such as `nets.conv4(..., norm="group")`'
        )


def _adapt_to(
    settings: MetaGanSettings,
    params: Params,
    support: Batch,
    key: Key,
    fast: Fast | None = None,
    labels: Array | None = None,
    *,
    one_step: bool = False,
) -> Fast:
    support = settings.prepare(support)
    return _adapt.adapt(settings, params, support, key, fast, labels, one_step=one_step)


def _predict(settings: MetaGanSettings, params: Params, fast: Fast, x: Array) -> Array:
    check_range(x, settings.span)
    return _adapt.predict(settings, params, fast)(as_float(x))


def _init(settings: MetaGanSettings, key: Key, x: Array) -> MetaGanState:
    params = _params(settings, key, x)
    made = MetaGanState(
        step=jnp.zeros((), jnp.int32),
        bad=adversarial.no_bad_steps(),
        params=params,
        d_opt=settings.d_tx.init(params["d"]),
        g_opt=settings.g_tx.init(params["g"]),
        ema=params["g"],
    )
    # In buffers of its own: what is donated may not hold one twice.
    return copy(made)


def _encode(settings: MetaGanSettings, state: MetaGanState, support: Batch, key: Key) -> Codes:
    return _adapt.encode(settings, state.ema, settings.prepare(support))


def _sample(
    settings: MetaGanSettings, state: MetaGanState, code: Codes | None, key: Key, *, n: int
) -> Batch:
    coding.check_count(n)
    if code is None:
        raise ValueError("no task is stored here: expected a code, from `encode`")
    coding.check_learned(code, jnp.ones_like(code.mask))
    return _adapt.render(settings, state.ema, code, key, n=n)
