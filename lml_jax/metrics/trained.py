"""Measures of a generator that train a classifier: CAS and the two-sample test."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, nets
from lml_jax.checks import concrete
from lml_jax.metrics.fewshot import accuracy, undefined_where
from lml_jax.pixels import on_floats
from lml_jax.types import Batch, Key, Net, Params
from lml_jax.updates import apply_update

Fit = Callable[[Batch, Key], Params]  # (examples, key) -> parameters


def classifier(
    net: Net, tx: optax.GradientTransformation, *, steps: int, batch_size: int = 64
) -> Fit:
    """Train a fresh classifier on a set of examples.

    Each step draws `batch_size` examples with replacement, with probability proportional to their
    weight, and minimises the cross-entropy among the labels that occur in the set.

    Args:
        net: of logits [n, C].
        tx: the update rule.
        steps: updates, one scan.
        batch_size: examples in each.

    Returns:
        (examples, key) -> parameters; the caller owns jit.

    Raises:
        ValueError: for steps or batch_size below 1, or no examples that count; for labels the net
            has no output for, where they are known.

    Example:
        >>> from lml_jax import nets
        >>> fit = classifier(nets.mlp([8], 2), optax.adam(1e-2), steps=3)
        >>> params = fit(Batch(jnp.eye(2), jnp.array([0, 1])), jax.random.key(0))
    """
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}")
    net = on_floats(net)

    def fit(examples: Batch, key: Key) -> Params:
        if examples.y.shape[0] < 1 or _none_counts(examples):
            raise ValueError("there are no examples to train a classifier on, expected at least 1")
        key_init, key_steps = jax.random.split(key)
        one = jax.tree.map(lambda leaf: leaf[:1], examples.x)
        params = net.init(key_init, one)
        examples = examples._replace(y=losses.as_labels(examples.y))
        weight = losses.labelled(examples)
        # The inverse of the cumulative weight: a categorical draw would cost n for each example.
        total = jnp.cumsum(weight)
        last = weight.shape[0] - 1 - jnp.argmax(weight[::-1] > 0)

        def loss(params: Params, x: Array, y: Array, labels: Array) -> Array:
            logits = losses.mask_logits(net.apply(params, x), labels)
            return jnp.mean(losses.cross_entropy(logits, y))

        def step(carry: tuple[Params, Any], key: Key) -> tuple[tuple[Params, Any], None]:
            params, opt_state = carry
            level = jax.random.uniform(key, (batch_size,)) * total[-1]
            # Rounding may take the level up to the total, past the last example that counts.
            rows = jnp.minimum(jnp.searchsorted(total, level, side="right"), last)
            x, y = jax.tree.map(lambda leaf: leaf[rows], (examples.x, examples.y))
            grads = jax.grad(loss)(params, x, y, labels)
            params, opt_state, _ = apply_update(tx, grads, opt_state, params)
            return (params, opt_state), None

        classes = jax.eval_shape(net.apply, params, one).shape[1]
        losses.check_labels(examples.y, classes, examples.weight)
        labels = _labels_in(examples, classes)
        start = (params, tx.init(params))
        return jax.lax.scan(step, start, jax.random.split(key_steps, steps))[0][0]

    return fit


def embedding(
    examples: Batch, classes: int, key: Key, *, width: int = 64, steps: int = 1500
) -> Callable[[Array], Array]:
    """The last hidden layer of a classifier trained on real examples, for measures of a generator.

    A perceptron of 512, `width`; trained by Adam on batches of 128.

    Args:
        examples: real and labelled, floats.
        classes: C.
        key: of its start and its batches; the same key gives the same embedding.
        width: of the embedding.
        steps: updates.

    Returns:
        x [n, ...] -> [n, width]; the caller owns jit.

    Example:
        >>> examples = Batch(jnp.eye(2), jnp.array([0, 1]))
        >>> embedding(examples, 2, jax.random.key(0), steps=2)(jnp.zeros((3, 2))).shape
        (3, 64)
    """
    body, last = nets.mlp([512], width), nets.mlp([], classes)

    def init(key: Key, x: Array) -> Params:
        keys = jax.random.split(key)
        return {"body": body.init(keys[0], x), "last": last.init(keys[1], jnp.zeros((1, width)))}

    def features(params: Params, x: Array) -> Array:
        return jax.nn.relu(body.apply(params["body"], x))

    def logits(params: Params, x: Array) -> Array:
        return last.apply(params["last"], features(params, x))

    fit = classifier(Net(init, logits), optax.adam(1e-3), steps=steps, batch_size=128)
    return partial(features, jax.jit(fit)(examples, key))


def classification_scores(net: Net, fit: Fit) -> Callable[[Batch, Sequence[Batch], Key], Array]:
    """Classification accuracy scores (CAS): train on what is generated, test on what is real.

    R_j = 1/n sum_{(x, y) in real_j} 1[argmax_c f_c(x; fit(generated)) = y], with c among all
    labels that occur in the generated set: within the labels of one task forgetting would hide.
    Of samples of every class of tasks 1..i this is row i of the CAS matrix; stacked below a row
    of NaN, the untrained generator, the rows are the R [T + 1, T] that `metrics.summary` takes.

    Args:
        net: the classifier, of logits [n, C].
        fit: from `classifier`.

    Returns:
        (generated, real test sets of T tasks, key) -> scores [T] in [0, 1]. An example whose label
        was not generated counts as wrong; a task none of whose labels was is NaN.

    Example:
        >>> from lml_jax import nets
        >>> net = nets.mlp([], 3)
        >>> scores = classification_scores(net, classifier(net, optax.adam(0.1), steps=50))
        >>> generated = Batch(jnp.array([[-1.0], [1.0]]), jnp.array([0, 1]))
        >>> tests = [Batch(jnp.array([[-3.0]]), jnp.array([0])),
        ...          Batch(jnp.array([[5.0]]), jnp.array([2]))]
        >>> scores(generated, tests, jax.random.key(0)).tolist()
        [1.0, nan]

    Source:
        Ravuri, Vinyals. Classification Accuracy Score for Conditional Generative Models, 2019; on
        a stream, Lesort et al. Generative Models from the Perspective of Continual Learning, 2019.
    """

    def scores(generated: Batch, tests: Sequence[Batch], key: Key) -> Array:
        params = fit(generated, key)

        def of_task(real: Batch) -> Array:
            logits = net.apply(params, real.x)
            labels = _labels_in(generated, logits.shape[1])
            weight = losses.labelled(real)
            y = jnp.clip(losses.as_labels(real.y), 0, logits.shape[1] - 1)
            met = jnp.any(labels[y] & (weight > 0))
            right = accuracy(losses.mask_logits(logits, labels), real.y, weight=weight)
            return undefined_where(~met, right)

        rows = [of_task(real) for real in tests]
        with jax.debug_nans(False):  # NaN is meant here
            return jnp.stack(rows)

    return scores


def two_sample_score(net: Net, fit: Fit) -> Callable[[Array, Array, Key], Array]:
    """Classifier two-sample test (C2ST): can a classifier tell generated examples from real ones?

    t = 1/n sum_{(x, l) held out} 1[argmax f(x; fit(the other half)) = l], l = 1 for real. If both
    come from one distribution t is about 1/2, with standard deviation 1/(2 sqrt(n)).

    Args:
        net: of 2 logits.
        fit: from `classifier`.

    Returns:
        (real [n, ...], generated [n, ...], key) -> t in [0, 1]; a random half of each is held out.

    Raises:
        ValueError: for sets of different sizes, or of fewer than 2 examples.

    Example:
        >>> from lml_jax import nets
        >>> net = nets.mlp([], 2)
        >>> score = two_sample_score(net, classifier(net, optax.adam(0.1), steps=50))
        >>> float(score(jnp.full((4, 1), 3.0), jnp.full((4, 1), -3.0), jax.random.key(0)))
        1.0

    Source:
        Lopez-Paz, Oquab. Revisiting Classifier Two-Sample Tests, 2017.
    """

    def score(real: Array, generated: Array, key: Key) -> Array:
        if real.shape != generated.shape or real.shape[0] < 2:
            raise ValueError(
                "expected as many real examples as generated ones, and at least 2, got shapes "
                f"{real.shape} and {generated.shape}"
            )
        key_real, key_generated, key_fit = jax.random.split(key, 3)
        real = jax.random.permutation(key_real, real)
        generated = jax.random.permutation(key_generated, generated)
        half, n = real.shape[0] // 2, real.shape[0]

        def both(first: int, last: int) -> Batch:
            label = jnp.repeat(jnp.array([1, 0]), last - first)
            return Batch(jnp.concatenate([real[first:last], generated[first:last]]), label)

        held_out = both(half, n)
        logits = net.apply(fit(both(0, half), key_fit), held_out.x)
        return accuracy(logits, held_out.y)

    return score


def _none_counts(examples: Batch) -> bool:
    """Whether every example is known to be unlabelled or of weight 0."""
    found = concrete(examples.y, examples.weight)
    if found is None:
        return False
    y, weight = found
    return not ((y >= 0) & (True if weight is None else weight > 0)).any()


def _labels_in(examples: Batch, classes: int) -> Array:
    """The labels bool [C] that occur in `examples` with a weight above 0."""
    y = jnp.where(losses.labelled(examples) > 0, losses.as_labels(examples.y), classes)
    return jnp.zeros(classes, bool).at[y].set(True, mode="drop")
