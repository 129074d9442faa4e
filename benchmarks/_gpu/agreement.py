"""Does every learner run on this device, and equal the CPU within tolerance?

Both take the same start and the same tasks, in full float32 precision. Rules are plain SGD where
they can be chosen: Adam divides by the size of the gradient, and makes of a rounding error of a
vanishing gradient a whole step.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _gpu import seeds
from _gpu.common import Run, computing, omniglot_or_not

from lml_jax import nets, train
from lml_jax.data.episodes import episodes
from lml_jax.data.stream import Stream
from lml_jax.data.synthetic import sinusoids
from lml_jax.experiments.fewshot.build import learner_of, loss_of, network_of
from lml_jax.experiments.fewshot.learners import embeddings
from lml_jax.experiments.fewshot.settings import FewShot, Plan, resolve
from lml_jax.experiments.lifelong.learners import FAMILIES
from lml_jax.experiments.metagan import MetaGan, with_generator
from lml_jax.generative.vaml.images import mlp_parts, vaml
from lml_jax.generative.vaml.regression import vaml_regression
from lml_jax.learners.matching import matching
from lml_jax.nets._batched_conv import LOWERINGS
from lml_jax.types import Batch, Key, Learner, LifelongLearner, TaskGenerator

TOLERANCE = 1e-3
RATE = optax.sgd(0.05)


class Case(NamedTuple):
    """Steps of something: `start()` -> state, and functions of (state, *arrays) -> (state, shown).

    `calls` are (function, arguments); the same function compiles once.
    """

    name: str
    start: Callable[[], Any]
    calls: Callable[[], list[tuple[Callable[..., Any], tuple[Any, ...]]]]
    lowering: str | None = None


def main(run: Run, share: tuple[int, int] = (0, 1)) -> None:
    place, shares = share
    for case in list(cases(run.tiny))[place::shares]:
        run.attempt(case.name, partial(compare, case), least=0 if run.tiny else 5)


def compare(case: Case) -> dict[str, Any]:
    """Relative errors ||device - cpu|| / ||cpu|| of the state and of what the steps show."""
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    with jax.default_device(cpu):
        start, calls = case.start(), case.calls()
    found, seconds = [], []
    for where, lowering in ((cpu, None), (device, case.lowering)):
        begun = time.perf_counter()
        with computing(precision="f32", lowering=lowering), jax.default_device(where):
            found.append(jax.device_get(through(start, calls, where)))
        seconds.append(time.perf_counter() - begun)
    (state_cpu, shown_cpu), (state_device, shown_device) = found
    state, shown = error(state_device, state_cpu), error(shown_device, shown_cpu)
    return {
        "error_state": state,
        "error_shown": shown,
        "equal": bool(max(state, shown) < TOLERANCE),
        "seconds_cpu": seconds[0],
        "seconds_device": seconds[1],
        "device": device.device_kind,
    }


def through(start: Any, calls: Any, where: Any) -> tuple[Any, Any]:
    """The state after all calls, and what they showed, on one device."""
    state, jitted, shown = jax.device_put(start, where), {}, []
    for function, arguments in calls:
        jitted.setdefault(function, jax.jit(function))
        state, row = jitted[function](state, *jax.device_put(arguments, where))
        shown.append(row)
    return without_keys(state), without_keys(shown)


def without_keys(tree: Any) -> Any:
    """Typed keys as their words, so that they can be compared."""
    return jax.tree.map(
        lambda leaf: (
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        ),
        tree,
    )


def error(got: Any, want: Any) -> float:
    """The relative error over all numbers of two trees; infinite for one that is finite alone."""
    top = bottom = 0.0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return float("inf")
        fine = np.isfinite(b)
        top += float(np.square(a[fine] - b[fine]).sum())
        bottom += float(np.square(b[fine]).sum())
    return float(np.sqrt(top / max(bottom, 1e-30)))


def cases(tiny: bool) -> Iterator[Case]:
    """Every learner, the likeliest to fail first."""
    if tiny:
        yield few_shot("maml", tiny, lowering="patches")
        yield few_shot("protonet", tiny)
        yield lifelong("lifelong-maml", tiny)
        return
    yield few_shot("maml", tiny)
    yield lifelong("lifelong-maml", tiny, net="conv4")
    yield few_shot("protonet", tiny)
    yield lifelong("memory", tiny, net="conv4")
    yield metagan(tiny)
    yield images_vaml(tiny)
    # Of the MLP: these share the network, not the conv4 of the two above.
    for name in FAMILIES:
        yield lifelong(name, tiny)
    for name in ("gemcl", "matching", "reptile", "fomaml", "meta-sgd", "maml++"):
        yield few_shot(name, tiny)
    for kind in ("matching", "gemcl"):
        yield lifelong("memory", tiny, few_shot=kind)
    yield waves_vaml()
    yield full_context(tiny)
    for lowering in LOWERINGS:
        yield few_shot("maml", tiny, lowering=lowering)


def drawn(sample: Callable[..., Any], data: Any, count: int = 3) -> list[Any]:
    one = jax.jit(sample)
    return [one(data, jax.random.key(10 + t)) for t in range(count)]


def keys(count: int) -> list[Key]:
    return list(jax.random.split(jax.random.key(1), count))


def settings_of(name: str, tiny: bool) -> FewShot:
    inner_steps = 2 if name in ("maml++", "reptile") else None
    ways = 5 if name in embeddings() else None
    return FewShot(
        learner=name,
        data="omniglot",
        filters=8 if tiny else 64,
        meta_batch=2,
        inner_steps=inner_steps,
        train_ways=ways,
    )


def episodes_of(plan: Plan, tiny: bool) -> list[Any]:
    s = plan.settings
    data, _ = omniglot_or_not(s.split, "train", tiny=tiny)
    counts = {"ways": s.train_ways, "shots": s.shots, "queries": s.train_queries}
    return drawn(episodes(data, tasks=s.meta_batch, **counts), jax.device_put(data))


def few_shot(name: str, tiny: bool, *, lowering: str | None = None) -> Case:
    """Three outer steps of a few-shot learner on conv4."""
    plan = resolve(settings_of(name, tiny))
    s = plan.settings
    learner = learner_of(plan, network_of(plan), steps=s.inner_steps, ways=s.train_ways)
    step = train.make_train_step(loss_of(plan, learner), RATE)
    label = f"{name}, conv by {lowering}" if lowering else name
    return Case(label, *trained(learner, step, lambda: episodes_of(plan, tiny)), lowering)


def trained(learner: Learner, step: Any, tasks_of: Callable[[], list[Any]]) -> tuple[Any, Any]:
    """`start` and `calls` of a learner that is trained by `step`."""

    def start() -> Any:
        params = learner.init(jax.random.key(0), tasks_of()[0].support.x[0])
        return train.init_state(params, RATE)

    return start, lambda: [(step, pair) for pair in zip(tasks_of(), keys(3), strict=True)]


def full_context(tiny: bool) -> Case:
    """Matching networks with full context embeddings."""
    plan = resolve(settings_of("matching", tiny))
    ways = plan.settings.train_ways
    learner = matching(network_of(plan), classes=ways, context=nets.lstm_context(64))
    step = train.make_train_step(train.episode_loss(learner), RATE)
    start, calls = trained(learner, step, lambda: episodes_of(plan, tiny))
    return Case("matching, full context", start, calls)


def metagan(tiny: bool) -> Case:
    """Three steps of MetaGAN on MAML."""
    # GroupNorm: it refuses a network whose outputs depend on what else is in the batch.
    s = MetaGan(base=replace(settings_of("maml", tiny), batch_statistics="group"))
    plan = resolve(s.base)
    ways = plan.settings.train_ways
    _, generator = with_generator(s, plan, (28, 28), steps=1, ways=ways)
    return generated("metagan", generator, lambda: episodes_of(plan, tiny))


def images_vaml(tiny: bool) -> Case:
    encode = nets.conv4(32, norm="group")
    _, generator = vaml(
        mlp_parts(encode, pixels=28 * 28),
        RATE,
        shape=(28, 28),
        classes=5,
        discriminative=1.0,
    )
    plan = resolve(settings_of("maml", tiny))
    return generated("vaml", generator, lambda: episodes_of(plan, tiny))


def waves_vaml() -> Case:
    _, generator = vaml_regression(nets.mlp([64], 32), nets.mlp([64], 1), RATE, draws=4)
    sample = sinusoids(tasks=4, shots=5, queries=5)
    return generated("vaml on sine waves", generator, lambda: drawn(sample, ()))


def generated(name: str, generator: TaskGenerator, tasks_of: Callable[[], list[Any]]) -> Case:
    return Case(
        name,
        lambda: generator.init(jax.random.key(0), tasks_of()[0].support.x[0]),
        lambda: [(generator.step, pair) for pair in zip(tasks_of(), keys(3), strict=True)],
    )


def lifelong(name: str, tiny: bool, **options: str) -> Case:
    """Two steps on a task, its end, a step on the next, its end, and what is recalled."""
    settings = replace(
        seeds.SETTINGS, tasks=2, classes_per_task=2, meta_batch=2, steps=10, **options
    )
    stream, _ = seeds.stream_of(settings, tiny=tiny)
    learner = seeds.learner_of(name, settings, stream)
    about = ", ".join([name, *options.values()])
    return Case(about, lambda: begun(learner, stream), lambda: life(learner, stream))


def begun(learner: LifelongLearner, stream: Stream) -> Any:
    return learner.init(jax.random.key(0), stream.train(0).x)


def life(learner: LifelongLearner, stream: Stream) -> list[Any]:
    def end(state: Any, batch: Batch, key: Key) -> tuple[Any, tuple[()]]:
        return learner.end_task(state, batch, key), ()

    def recall(state: Any, x: Any, key: Key) -> tuple[Any, Any]:
        return state, learner.recall(state, x, key)

    k = keys(6)
    sample = jax.jit(Stream.episodes)
    ends = [(end, (stream.train(i), k[i])) for i in (0, 1)]
    steps = [
        (learner.step, (sample(stream, i, k[2 + n]), k[2 + n])) for n, i in enumerate((0, 0, 1))
    ]
    return [*steps[:2], ends[0], steps[2], ends[1], (recall, (stream.test(0).x, k[5]))]
