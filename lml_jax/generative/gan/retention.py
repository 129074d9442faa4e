"""Readings of L_j(theta_G), the loss that keeps past tasks j in a generator, by name.

None but `bank` keeps an image, and all run on fixed shapes: before the first task is finished
their terms have weight 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.generative.conditioning import Draw
from lml_jax.losses import labelled, non_saturating_loss
from lml_jax.types import Batch, ConditionalNet, Key, Params

REDUCTIONS = ("sum", "mean")
Render = Callable[[Array, Array], Array]  # (z, h) -> examples [m, ...]


class Transfer(NamedTuple):
    """A reading of L_j. `memory` is what it keeps across tasks.

    `real` gives the real side of an adversarial L_j, on which D is trained too; `penalty` a loss
    [m] that G descends beside it. Either may be None.
    """

    init: Callable[[Params, Array, Array], Any]  # (params of D, x_example, mask [T, C]) -> memory
    keep: Callable[[Any, Array, Params, Batch, Key], Any]  # (memory, i, D, batch, key) -> memory
    # (memory, teacher, draw, z, key) -> x [m, ...]
    real: Callable[[Any, Render, Draw, Array, Key], Array] | None = None
    # (memory, generator, teacher, draw, z, key) -> losses [m]
    penalty: Callable[[Any, Render, Render, Draw, Array, Key], Array] | None = None


def nothing() -> Transfer:
    """L_j = 0: a generator that is only told of the task at hand, and forgets."""
    return Transfer(lambda d, x, mask: (), lambda memory, i, d, batch, key: memory)


def align() -> Transfer:
    """L_j = E_z 1/2 |x(z, h_j) - x'(z, h_j)|^2, x' by the frozen generator from the same noise.

    In units of a range of 1, and summed over features. A regression in place of the adversarial
    loss: 0 while G is unchanged on task j, so that it keeps the variety of the frozen generator,
    and its faults. A lambda too large for the size of the image leaves G no room to learn task i.

    Source: Wu, Herranz, Liu, Wang, van de Weijer, Raducanu. Memory Replay GANs: Learning to
    Generate Images from New Categories without Forgetting, 2018 (replay alignment).
    """

    def penalty(
        memory: Any, generator: Render, teacher: Render, drawn: Draw, z: Array, key: Key
    ) -> Array:
        # Both render to (-1, 1), a range of 2.
        moved = (generator(z, drawn.h) - jax.lax.stop_gradient(teacher(z, drawn.h))) / 2
        return jnp.sum(moved.reshape(z.shape[0], -1) ** 2, axis=1) / 2

    return nothing()._replace(penalty=penalty)


def replay() -> Transfer:
    """L_j is the generator's own loss on task j, with samples of the frozen generator as the real.

    Source: Wu et al., Memory Replay GANs, 2018 (joint training with replay).
    """

    def real(memory: Any, teacher: Render, drawn: Draw, z: Array, key: Key) -> Array:
        return jax.lax.stop_gradient(teacher(z, drawn.h))

    return nothing()._replace(real=real)


def replay_and_align() -> Transfer:
    """The sum of `replay` and `align`."""
    return replay()._replace(penalty=align().penalty)


def bank(per_class: int) -> Transfer:
    """L_j is the generator's own loss on task j, with stored examples as the real.

    Keeps up to `per_class` examples of each class of each task.

    Raises:
        ValueError: for fewer than one.
    """
    if per_class < 1:
        raise ValueError(f"the bank must keep at least 1 example of each class, got {per_class}")

    def init(d: Params, x: Array, mask: Array) -> tuple[Array, Array]:
        return jnp.zeros((*mask.shape, per_class, *x.shape[1:])), jnp.zeros(mask.shape, jnp.int32)

    def keep(memory: Any, i: Array, d: Params, batch: Batch, key: Key) -> Any:
        stored, count = memory
        score = jax.random.uniform(key, batch.y.shape)
        member = (batch.y[None] == jnp.arange(count.shape[1])[:, None]) & (labelled(batch) > 0)[
            None
        ]
        slots = min(per_class, batch.y.shape[0])
        rows = jax.lax.top_k(jnp.where(member, score[None], -1.0), slots)[1]  # [C, slots]
        kept = jnp.minimum(member.sum(axis=1), slots).astype(jnp.int32)
        return stored.at[i, :, :slots].set(batch.x[rows]), count.at[i].set(kept)

    def real(memory: Any, teacher: Render, drawn: Draw, z: Array, key: Key) -> Array:
        stored, count = memory
        here = count[drawn.task, drawn.y]
        slot = jnp.floor(jax.random.uniform(key, here.shape) * here).astype(jnp.int32)
        return stored[drawn.task, drawn.y, slot]

    return Transfer(init, keep, real=real)


def frozen_discriminator(discriminator: ConditionalNet) -> Transfer:
    """L_j = -log sigma(D_j(G(z, h_j))), D_j as it was when task j was finished. It does not work.

    The equation taken by its letters, kept to be compared with: a discriminator that no longer
    learns is soon fooled by one image a class, so that G collapses. One past task is drawn for
    each step, for each has its own D_j.
    """

    def init(d: Params, x: Array, mask: Array) -> Params:
        return jax.tree.map(lambda leaf: jnp.zeros((mask.shape[0], *leaf.shape), leaf.dtype), d)

    def keep(memory: Params, i: Array, d: Params, batch: Batch, key: Key) -> Params:
        return jax.tree.map(lambda all_, one: all_.at[i].set(one), memory, d)

    def penalty(
        memory: Params, generator: Render, teacher: Render, drawn: Draw, z: Array, key: Key
    ) -> Array:
        # Draws are dealt over the tasks in order, so a random one of them has a random task.
        j = drawn.task[jax.random.randint(key, (), 0, drawn.task.shape[0])]
        of_task = drawn.task == j
        scores = discriminator.apply(
            jax.tree.map(lambda leaf: leaf[j], memory), generator(z, drawn.h), drawn.h
        )
        share = jnp.maximum(jnp.mean(of_task), 1 / drawn.task.shape[0])
        return jnp.where(of_task, non_saturating_loss(scores, scores), 0.0) / share

    return Transfer(init, keep, penalty=penalty)


def transfers(discriminator: ConditionalNet, *, per_class: int = 10) -> dict[str, Transfer]:
    """Every reading of L_j by its name; `per_class` examples are kept by `bank`."""
    return {
        "none": nothing(),
        "frozen_discriminator": frozen_discriminator(discriminator),
        "bank": bank(per_class),
        "replay": replay(),
        "align": align(),
        "replay+align": replay_and_align(),
    }


def share(finished: Array, *, weight: float, reduction: str) -> Array:
    """What E_j L_j counts: lambda times the number of past tasks, or lambda alone for their mean.

    Example:
        >>> [float(share(jnp.array(3), weight=0.5, reduction=by)) for by in REDUCTIONS]
        [1.5, 0.5]
    """
    return weight * (finished if reduction == "sum" else jnp.minimum(finished, 1)).astype(float)
