"""Retention losses L_j(theta_G) of past tasks j: what keeps a generator from forgetting them.

Each is a record of functions, `Retention`, that is passed to `conditional_gan`. All have fixed
shapes: before the first task is finished their draws are invalid and have weight 0.
"""

# ruff: noqa: D102 - the docstring of a function type is that of its Protocol

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.generative.conditioning import Draw
from lml_jax.losses import labelled, non_saturating_loss
from lml_jax.types import Batch, ConditionalNet, Key, MemoryBank, Params, PyTree

Reduction = Literal["sum", "mean"]
REDUCTIONS = get_args(Reduction)


class Render(Protocol):
    """What a generator makes of noise z [m, noise] and codes h [m, k]: [m, ...] in (-1, 1)."""

    def __call__(self, z: Array, h: Array, /) -> Array: ...


class InitMemory(Protocol):
    """An empty memory, given D's parameters, examples x [n, ...] in -1..1 and a mask [T, C]."""

    def __call__(self, discriminator: Params, x: Array, mask: Array, /) -> PyTree: ...


class KeepTask(Protocol):
    """The memory after task number `task`, with D's parameters and the task's examples in -1..1.

    Examples whose weight is 0 are padding.
    """

    def __call__(
        self, memory: PyTree, task: Array, discriminator: Params, batch: Batch, key: Key, /
    ) -> PyTree: ...


class RealExamples(Protocol):
    """(x [m, ...] in -1..1, valid bool [m]): the real side of an adversarial L_j, for each draw.

    `teacher` renders as the generator did when the last task was finished.
    """

    def __call__(
        self, memory: PyTree, teacher: Render, drawn: Draw, z: Array, key: Key, /
    ) -> tuple[Array, Array]: ...


class PastLoss(Protocol):
    """Losses [m] of the generator on m draws of past tasks."""

    def __call__(
        self, memory: PyTree, generator: Render, teacher: Render, drawn: Draw, z: Array, key: Key, /
    ) -> Array: ...


class Retention(NamedTuple):
    """A variant of the retention loss.

    Attributes:
        init: an empty memory, any pytree of arrays.
        keep: the memory at the end of a task.
        real: the real examples of an adversarial L_j, which is then the GAN's own loss on task j,
            and D is trained on it as well; or None.
        penalty: a loss per draw that is added to G's objective; or None.
    """

    init: InitMemory
    keep: KeepTask
    real: RealExamples | None = None
    penalty: PastLoss | None = None


def none() -> Retention:
    """L_j = 0: the generator is trained on the arriving task alone, and forgets.

    Example:
        >>> none().penalty is None
        True
    """
    return Retention(
        lambda discriminator, x, mask: (), lambda memory, task, discriminator, batch, key: memory
    )


def align() -> Retention:
    """Replay alignment: squared distance to the frozen generator's output for the same noise.

    L_j = E_z 1/2 |x(z, h_j) - x'(z, h_j)|^2 with x' by the frozen generator; summed over features,
    in units of a range of 1.

    It is 0 while G is unchanged on task j, so G keeps the diversity of the frozen generator, and
    its errors. A weight that is too large for the size of the image leaves no freedom to learn
    task i.

    Example:
        >>> align().penalty is None
        False

    Source:
        Wu, Herranz, Liu, Wang, van de Weijer, Raducanu. Memory Replay GANs: Learning to Generate
        Images from New Categories without Forgetting, 2018. https://arxiv.org/abs/1809.02058
    """

    def penalty(
        memory: PyTree, generator: Render, teacher: Render, drawn: Draw, z: Array, key: Key
    ) -> Array:
        # Both render to (-1, 1), a range of 2.
        moved = (generator(z, drawn.h) - jax.lax.stop_gradient(teacher(z, drawn.h))) / 2
        return jnp.sum(moved.reshape(z.shape[0], -1) ** 2, axis=1) / 2

    return none()._replace(penalty=penalty)


def replay() -> Retention:
    """Joint training with replay: the GAN's loss on task j, the frozen generator's samples as real.

    Example:
        >>> replay().real is None
        False

    Source:
        Wu et al. Memory Replay GANs, 2018. https://arxiv.org/abs/1809.02058
    """

    def real(
        memory: PyTree, teacher: Render, drawn: Draw, z: Array, key: Key
    ) -> tuple[Array, Array]:
        return jax.lax.stop_gradient(teacher(z, drawn.h)), drawn.valid

    return none()._replace(real=real)


def replay_and_align() -> Retention:
    """The sum of `replay` and `align`.

    Example:
        >>> replay_and_align().penalty is None
        False
    """
    return replay()._replace(penalty=align().penalty)


def bank(memory_bank: MemoryBank) -> Retention:
    """The GAN's loss on task j, with stored examples as real.

    For each draw of a past task and class an example of both is taken from the bank, each as
    likely; a draw of which the bank holds nothing is invalid.

    Args:
        memory_bank: any bank of items (x [...] in -1..1, y int32, task int32); the examples of a
            task are offered when it is finished. `memory.class_balanced(10, classes=C)` stores 10
            examples per class.

    Example:
        >>> from lml_jax import memory
        >>> bank(memory.class_balanced(10, classes=3)).real is None
        False
    """

    def init(discriminator: Params, x: Array, mask: Array) -> PyTree:
        return memory_bank.init((x[0], jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)))

    def keep(memory: PyTree, task: Array, discriminator: Params, batch: Batch, key: Key) -> PyTree:
        of_task = jnp.broadcast_to(task, batch.y.shape)
        return memory_bank.insert(memory, (batch.x, batch.y, of_task), key, labelled(batch) > 0)

    def real(
        memory: PyTree, teacher: Render, drawn: Draw, z: Array, key: Key
    ) -> tuple[Array, Array]:
        (x, y, task), held = memory_bank.contents(memory)
        member = (task[None] == drawn.task[:, None]) & (y[None] == drawn.y[:, None]) & held[None]
        count = member.sum(axis=1)
        rank = jnp.floor(jax.random.uniform(key, count.shape) * count.astype(float))
        row = jnp.argmax(jnp.cumsum(member, axis=1) > rank.astype(jnp.int32)[:, None], axis=1)
        return x[row], drawn.valid & (count > 0)

    return Retention(init, keep, real=real)


def frozen_discriminator(discriminator: ConditionalNet) -> Retention:
    """The non-saturating loss under a frozen copy of D for each past task. It does not work.

    L_j = -log sigma(D_j(G(z, h_j))), D_j as it was when task j was finished.

    The equation read literally, for comparison: a discriminator that is no longer trained is soon
    fooled by one image per class, and G collapses. One past task is drawn in each step, since each
    has its own D_j.

    Example:
        >>> from lml_jax import nets
        >>> frozen_discriminator(nets.projection_discriminator([8])).real is None
        True
    """

    def init(params: Params, x: Array, mask: Array) -> Params:
        # Copies, not zeros: a row that is not in use is evaluated too, with weight 0.
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[None], (mask.shape[0], *leaf.shape)), params
        )

    def keep(memory: Params, task: Array, params: Params, batch: Batch, key: Key) -> Params:
        return jax.tree.map(lambda all_, one: all_.at[task].set(one), memory, params)

    def penalty(
        memory: Params, generator: Render, teacher: Render, drawn: Draw, z: Array, key: Key
    ) -> Array:
        # Draws are in the order of the tasks, so a random one of them has a random task.
        j = drawn.task[jax.random.randint(key, (), 0, drawn.task.shape[0])]
        of_task = drawn.task == j
        scores = discriminator.apply(
            jax.tree.map(lambda leaf: leaf[j], memory), generator(z, drawn.h), drawn.h
        )
        share = jnp.maximum(jnp.mean(of_task.astype(float)), 1 / drawn.task.shape[0])
        return jnp.where(of_task, non_saturating_loss(scores, scores), 0.0) / share

    return Retention(init, keep, penalty=penalty)


# Names for the command line: each entry builds a `Retention` from (discriminator, memory bank).
RETENTIONS: dict[str, Callable[[ConditionalNet, MemoryBank], Retention]] = {
    "none": lambda discriminator, memory_bank: none(),
    "frozen_discriminator": lambda discriminator, memory_bank: frozen_discriminator(discriminator),
    "bank": lambda discriminator, memory_bank: bank(memory_bank),
    "replay": lambda discriminator, memory_bank: replay(),
    "align": lambda discriminator, memory_bank: align(),
    "replay+align": lambda discriminator, memory_bank: replay_and_align(),
}


def total_weight(finished: Array, *, weight: float, reduction: Reduction) -> Array:
    """The factor of E_j L_j over past tasks: lambda (i-1) for their sum, lambda for their mean.

    Example:
        >>> [float(total_weight(jnp.array(3), weight=0.5, reduction=r)) for r in REDUCTIONS]
        [1.5, 0.5]
    """
    return weight * (finished if reduction == "sum" else jnp.minimum(finished, 1)).astype(float)
