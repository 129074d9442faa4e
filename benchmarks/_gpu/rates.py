"""Step rates of published schedules of ProtoNet and GeMCL, and their whole length."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _gpu.common import Run, computing, omniglot_or_not
from jax import Array

from lml_jax import train
from lml_jax.data.arrays import rotations
from lml_jax.data.episodes import episodes
from lml_jax.experiments.fewshot.build import learner_of, loss_of, network_of, outer_rule_of
from lml_jax.experiments.fewshot.settings import FewShot, resolve
from lml_jax.experiments.published import CELLS, SEQUENCE_84
from lml_jax.learners.gemcl import gemcl
from lml_jax.nets._batched_conv import conv2d
from lml_jax.types import Dataset, Key, Net, Params

PROTONET = replace(CELLS, train_ways=60, steps=20_000, schedule="halving")
LENGTH = 50  # steps in one dispatch
# SB-MCL (Lee et al., NeurIPS 2024): 50,000 steps of 16 tasks of 10 classes, 10 + 10 images each.
WIDTHS, CLASSES, SHOTS, MULTI_STEPS, MULTI_TASKS = (32, 64, 128, 256, 256), 10, 10, 50_000, 16

Job = tuple[str, int, str, Callable[[], tuple[Any, Any, Any, Any]]]


def main(run: Run) -> None:
    for what, steps, lowering, build in jobs(run.tiny):

        def measure(
            steps: int = steps, lowering: str = lowering, build: Any = build
        ) -> dict[str, Any]:
            with computing(lowering=lowering):
                return rate(*build(), steps=steps, tiny=run.tiny)

        run.attempt(f"{what}, {lowering}, tf32", measure, least=10 * (not run.tiny))
    run.write(what="OML", missing="the package has no such learner")


def jobs(tiny: bool) -> Iterator[Job]:
    """What to time, most important first. With one kernel for all tasks, "grouped" is native."""
    for lowering in ("grouped", "patches"):
        yield "protonet, 60 ways", PROTONET.steps, lowering, lambda: embedding(PROTONET, tiny)
        if tiny:
            return
        yield "gemcl, 16 tasks", MULTI_STEPS, lowering, lambda: multitask(tiny)
        yield "gemcl, 84x84", SEQUENCE_84.steps, lowering, lambda: embedding(SEQUENCE_84, tiny)


def rate(
    step: Any, sample: Any, state: Any, data: Any, *, steps: int, tiny: bool
) -> dict[str, Any]:
    """Steps per second over 3 s or more, compilation apart."""
    length, seconds = (2, 0.0) if tiny else (LENGTH, 3.0)
    key = jax.random.key(0)
    begun = time.perf_counter()
    many = train.make_runner(step, sample, scan=True).lower(state, data, key, length).compile()
    compile_s = time.perf_counter() - begun
    state, _ = many(state, data, key)
    jax.block_until_ready(state)
    begun, done = time.perf_counter(), 0
    while True:
        state, metrics = many(state, data, key)
        jax.block_until_ready(state)
        done, passed = done + length, time.perf_counter() - begun
        if passed >= seconds:
            break
    return {
        "steps_per_s": done / passed,
        "minutes_of_schedule": steps * passed / done / 60,
        "schedule": steps,
        "loss": float(metrics["loss"][-1]),
        "compile_s": compile_s,
    }


def embedding(settings: FewShot, tiny: bool) -> tuple[Any, Any, Any, Any]:
    """(step, sampler, state, data) of one of the library's settings."""
    plan = resolve(replace(settings, train_ways=5, filters=8) if tiny else settings)
    s = plan.settings
    data, _ = omniglot_or_not(s.split, "train", tiny=tiny)
    if s.size != 28:
        # As large as the protocol's images; what is drawn on them costs nothing.
        data = scaled(data, s.size // 28)
    if s.split == "vinyals":
        data = rotations(data)
    sample = episodes(
        data, tasks=s.meta_batch, ways=s.train_ways, shots=s.shots, queries=s.train_queries
    )
    learner = learner_of(plan, network_of(plan), steps=0, ways=s.train_ways)
    tx = outer_rule_of(plan)
    step = train.make_train_step(loss_of(plan, learner), tx)
    return step, sample, begin(learner, tx, data), jax.device_put(data)


def multitask(tiny: bool) -> tuple[Any, Any, Any, Any]:
    """The same of SB-MCL's GeMCL on Omniglot: 32x32, 5 convolutions of stride 2, 512 features."""
    data, _ = omniglot_or_not("background/evaluation", "train", tiny=tiny)
    data = replace(data, x=np.pad(data.x, ((0, 0), (2, 2), (2, 2))))
    tasks = 1 if tiny else MULTI_TASKS
    sample = episodes(data, tasks=tasks, ways=CLASSES, shots=SHOTS, queries=20 - SHOTS)
    learner = gemcl(five_convolutions(), classes=CLASSES)
    tx = optax.adam(optax.exponential_decay(1e-4, 10_000, 0.5, staircase=True))
    step = train.make_train_step(train.episode_loss(learner), tx)
    return step, sample, begin(learner, tx, data), jax.device_put(data)


def begin(learner: Any, tx: Any, data: Dataset) -> Any:
    example = jnp.zeros((1, *data.x.shape[1:]), data.x.dtype)
    start = jax.jit(lambda key: train.init_state(learner.init(key, example), tx))
    return start(jax.random.key(0))


def scaled(data: Dataset, factor: int) -> Dataset:
    """Every pixel as a square of `factor` x `factor`."""
    x = np.asarray(data.x).repeat(factor, axis=1).repeat(factor, axis=2)
    return replace(data, x=x)


def five_convolutions(features: int = 512) -> Net:
    """3x3 convolutions of stride 2 and ReLU, without normalisation, then a linear layer."""

    def init(key: Key, x: Array) -> Params:
        params, channels = {}, 1
        for i, width in enumerate(WIDTHS):
            shape = (3, 3, channels, width)
            kernel = jax.random.normal(jax.random.fold_in(key, i), shape)
            params[f"conv{i}"] = kernel * np.sqrt(2 / (9 * channels))
            channels = width
        kernel = jax.random.normal(jax.random.fold_in(key, len(WIDTHS)), (channels, features))
        return params | {"head": kernel / np.sqrt(channels)}

    def apply(params: Params, x: Array) -> Array:
        x = x[..., None].astype(jnp.float32) / 255
        for i in range(len(WIDTHS)):
            x = jax.nn.relu(conv2d(x, params[f"conv{i}"], stride=2))
        return x.reshape(len(x), -1) @ params["head"]

    return Net(init, apply)
