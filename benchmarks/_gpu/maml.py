"""MAML's published Omniglot schedule: steps per second of several variants, and the accuracy."""

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _gpu.common import Run, computing, omniglot_or_not
from jax import Array

from lml_jax import evaluate, parallel, train
from lml_jax.data.episodes import episodes
from lml_jax.experiments.fewshot.build import loss_of, network_of, outer_rule_of
from lml_jax.experiments.fewshot.settings import Plan, Resolved, resolve
from lml_jax.experiments.published import OMNIGLOT
from lml_jax.learners.maml import maml
from lml_jax.types import Dataset, Fast, Key, Params, Task

STEPS = OMNIGLOT.steps  # 60,000


class Variant(NamedTuple):
    """How the step is compiled; what it computes is the same in all but rounding."""

    lowering: str
    precision: str = "tf32"
    remat: bool = False
    at_once: int | None = None  # tasks side by side; None: all

    @property
    def name(self) -> str:
        extra = ["remat"] if self.remat else []
        extra += [f"{self.at_once} task at once"] if self.at_once else []
        return ", ".join([self.lowering, self.precision, *extra])


VARIANTS = (
    Variant("grouped"),
    Variant("patches"),
    Variant("grouped", remat=True),
    Variant("grouped", at_once=1),
    Variant("grouped", "f32"),
)


class Problem(NamedTuple):
    """The settings of the published protocol, its data and samplers."""

    plan: Plan
    train_set: Dataset
    test_set: Dataset
    sample: Any
    test_sample: Any
    data: str

    @property
    def settings(self) -> Resolved:
        return self.plan.settings


def problem(*, tiny: bool) -> Problem:
    plan = resolve(replace(OMNIGLOT, meta_batch=2, filters=8) if tiny else OMNIGLOT)
    s = plan.settings
    train_set, data = omniglot_or_not(s.split, "train", tiny=tiny)
    test_set, _ = omniglot_or_not(s.split, "test", tiny=tiny)
    sizes = {"ways": s.ways, "shots": s.shots, "rotate": True}
    sample = episodes(train_set, tasks=s.meta_batch, queries=s.train_queries, **sizes)
    test_sample = episodes(test_set, tasks=2 if tiny else 20, queries=s.queries, **sizes)
    train_set, test_set = jax.device_put((train_set, test_set))
    return Problem(plan, train_set, test_set, sample, test_sample, data)


class Trainer:
    """A compiled scan of `length` steps, and the state it has reached."""

    def __init__(self, p: Problem, variant: Variant, length: int) -> None:
        s, self.p, self.variant, self.length = p.settings, p, variant, length
        rule = optax.sgd(s.inner_rate)
        self.learner = learner = maml(
            network_of(p.plan), rule, steps=s.inner_steps, unroll=True, remat=variant.remat
        )
        tx = outer_rule_of(p.plan)
        reduce = partial(parallel.vmap_mean, at_once=variant.at_once)
        step = train.make_train_step(loss_of(p.plan, learner), tx, reduce=reduce)
        self.key_init, self.key, self.key_test = jax.random.split(jax.random.key(s.seed), 3)
        example = jnp.zeros((1, *p.train_set.x.shape[1:]), p.train_set.x.dtype)

        @jax.jit
        def start(key: Any) -> Any:
            return train.init_state(learner.init(key, example), tx)

        begun = time.perf_counter()
        with computing(precision=variant.precision, lowering=variant.lowering):
            self.state = start(self.key_init)
            many = train.make_runner(step, p.sample, scan=True)
            self.many = many.lower(self.state, p.train_set, self.key, length).compile()
        self.compile_seconds = time.perf_counter() - begun

    def advance(self, seconds: float, *, most: int) -> dict[str, Any]:
        """Train for so many seconds, or to step `most`."""
        first, begun, metrics = int(self.state.step), time.perf_counter(), {}
        while True:
            self.state, metrics = self.many(self.state, self.p.train_set, self.key)
            done = int(self.state.step)  # waits for the device
            passed = time.perf_counter() - begun
            if passed >= seconds or done >= most:
                break
        if int(self.state.bad_step) >= 0:
            raise FloatingPointError(f"not finite at step {int(self.state.bad_step)}")
        rate = (done - first) / passed
        return {
            "steps": done,
            "steps_per_s": rate,
            "minutes_of_schedule": STEPS / rate / 60,
            "loss": float(metrics["loss"].mean()),
            "data": self.p.data,
            "seconds": passed,
        }

    def accuracy(self, count: int) -> dict[str, Any]:
        """Test accuracy after inner steps 0..10, over new episodes of test classes."""
        s, learner = self.p.settings, self.learner
        step = learner.inner_step
        assert step is not None

        def of_task(params: Params, task: Task, key: Key) -> Array:
            def score(fast: Fast) -> Array:
                outputs = learner.predict(params, fast, task.query.x)
                return evaluate.query_accuracy(outputs, task.query)

            def one(fast: Fast, key: Key) -> tuple[Fast, Array]:
                after = step(params, task.support, key, fast)
                return after, score(after)

            # A scan over inner steps compiles one of them; `evaluate.per_inner_step`, made for
            # CPUs, has ten in a row.
            empty = jax.tree.map(lambda leaf: leaf[:0], task.support)
            start = learner.adapt(params, empty, key)
            keys = jax.random.split(key, s.test_inner_steps)
            scores = jax.lax.scan(one, start, keys)[1]
            return jnp.concatenate([score(start)[None], scores])

        begun = time.perf_counter()
        with computing(precision=self.variant.precision, lowering=self.variant.lowering):
            tested = evaluate.over_episodes(
                of_task,
                self.state.params,
                self.p.test_sample,
                self.p.test_set,
                self.key_test,
                episodes=count,
            )
            scores = np.concatenate(list(tested))
        return {
            "episodes": count,
            "accuracy": scores.mean(0).tolist(),
            "confidence": (1.96 * scores.std(0) / np.sqrt(count)).tolist(),
            "report_step": s.report_step,
            "steps": int(self.state.step),
            "data": self.p.data,
            "seconds": time.perf_counter() - begun,
        }


def main(run: Run) -> None:
    given = run.left()
    p = problem(tiny=run.tiny)
    length = 2 if run.tiny else 250
    variants = VARIANTS[:2] if run.tiny else VARIANTS
    rates: dict[str, tuple[float, Trainer]] = {}
    # Compiling side by side; one that takes too long must not keep the others waiting.
    pool = ThreadPoolExecutor(1 if run.tiny else len(variants))
    jobs = {v.name: pool.submit(Trainer, p, v, length) for v in variants}
    for until in (0.55, 0.35):  # of the time, still left when waiting ends
        if not run.tiny:
            wait(jobs.values(), timeout=max(0.0, run.left() - until * given))
        for name in [n for n, job in jobs.items() if run.tiny or job.done()]:
            time_one(run, name, jobs.pop(name), rates)
        if rates and not jobs:
            break
    for name in jobs:
        run.write(what=f"maml, {name}", missing="not compiled in time")
    pool.shutdown(wait=False, cancel_futures=True)
    if rates:
        train_and_test(run, *max(rates.items(), key=lambda item: item[1][0]))


def time_one(
    run: Run, name: str, job: Future[Trainer], rates: dict[str, tuple[float, Trainer]]
) -> None:
    """Steps per second of one variant, over 3 s."""

    def measure() -> dict[str, Any]:
        trainer = job.result()
        trainer.advance(0.0, most=STEPS)  # once for nothing: the first call loads the program
        row = trainer.advance(0.0 if run.tiny else 3.0, most=STEPS)
        tflops = flops_per_step(trainer.p.settings) * row["steps_per_s"] / 1e12
        return row | {"tflops": tflops, "compile_s": trainer.compile_seconds}

    row = run.attempt(f"maml, {name}", measure)
    if row:
        rates[name] = row["steps_per_s"], job.result()


def flops_per_step(s: Resolved) -> float:
    """Of the convolutions: forward is 1, a gradient 2, and the gradient of that 6 more."""
    size, channels, image = 28, 1, 0.0
    for _ in range(4):
        size, channels, before = -(-size // 2), s.filters, channels
        image += 2 * 9 * before * channels * size**2
    return s.meta_batch * s.ways * image * ((3 + 6) * s.shots + 3 * s.train_queries)


def train_and_test(run: Run, name: str, found: tuple[float, Trainer]) -> None:
    """Go on with the fastest variant for what time there is, to the end of the schedule at most."""
    trainer = found[1]
    reserve = 0 if run.tiny else 35
    seconds = 0.0 if run.tiny else max(5.0, run.left() - reserve)
    run.attempt(f"training, {name}", lambda: trainer.advance(seconds, most=STEPS))
    run.attempt(f"test, {name}", lambda: trainer.accuracy(4 if run.tiny else 1000), least=0)
