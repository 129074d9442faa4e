"""Training with a progress bar, a time limit and checkpoints."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lml_jax import train
from lml_jax.checkpoint import Keeper
from lml_jax.execution import Execution
from lml_jax.experiments import log
from lml_jax.experiments.runner import Place
from lml_jax.types import GeneratorStep, Key, PyTree, Task

Sampler = Callable[[Any, Key], Task]  # (data, key) -> tasks

SHOWN = ("loss", "true_loss", "accuracy")


class Best(NamedTuple):
    """The parameters of the highest validation score so far."""

    score: np.ndarray  # float64 []
    step: np.ndarray  # int64 [], updates done by then
    params: PyTree


class Trained(NamedTuple):
    """The result of a training: its state, its seconds, and metrics of every step.

    `watched` is by name [steps], nan for steps that were not done; `best` is None where nothing was
    validated.
    """

    state: Any
    seconds: float
    watched: dict[str, np.ndarray]
    best: Best | None = None


def train_with_bar(
    step: train.Step | GeneratorStep,
    sample: Sampler,
    state: Any,
    data: PyTree,
    key: Key,
    *,
    steps: int,
    how: Execution,
    about: str,
    place: Place,
    keeper: Keeper,
    watch: tuple[str, ...] = (),
    validate: Callable[[PyTree], float] | None = None,
    validate_every: int = 1,
) -> Trained:
    """`train.run` from `state` to `steps` updates in all, or until `place.minutes` have passed.

    Continues from what `keeper` has saved, bit-identical to an uninterrupted run.

    Args:
        step: one update.
        sample: draws the tasks of an update.
        state: the start; it counts updates in `step`.
        data: what `sample` draws from.
        key: a typed key.
        steps: updates in all, those of an earlier process included.
        how: scan or loop, and the updates of a chunk.
        about: title of the bar.
        place: time limit and whether to show the bar.
        keeper: checkpoints.
        watch: names of metrics to keep of every step.
        validate: the score of parameters, larger is better, at the end of the chunk in which
            another `validate_every` updates are done, and at the end.
        validate_every: updates.

    Raises:
        train.DivergedError: if a loss or gradient was not finite.
    """
    unknown = np.full(steps, np.nan, np.float32)
    best = None if validate is None else Best(np.array(-np.inf), np.array(0), state.params)
    run = keeper.start(Trained(state, 0.0, dict.fromkeys(watch, unknown), best))
    begun = time.perf_counter() - run.seconds
    done = int(run.state.step)
    limit = float("inf") if place.minutes is None else 60 * place.minutes
    if done >= steps or run.seconds > limit:
        return run
    with tqdm(total=steps, initial=done, disable=place.hidden, unit="step", desc=about) as bar:
        # Nothing is passed to the step after the key.
        for current, values in train.run(
            cast(train.Step, step),
            sample,
            run.state,
            data,
            key,
            steps=steps - done,
            scan=how.scan,
            chunk=how.chunk,
        ):
            now = int(current.step)
            watched = {
                name: np.concatenate([old[:done], values[name], old[now:]])
                for name, old in run.watched.items()
            }
            means = {k: float(jnp.mean(values[k])) for k in SHOWN if k in values}
            best, score = run.best, -means["loss"]
            due = now // validate_every > done // validate_every or now == steps
            if validate is not None and best is not None and due:
                score = means["validation"] = validate(current.params)
                if score > best.score:
                    best = Best(np.array(score), np.array(now), current.params)
            run, done = Trained(current, time.perf_counter() - begun, watched, best), now
            keeper.save(now, run, score)
            bar.set_postfix({k: f"{value:.4f}" for k, value in means.items()})
            bar.update(len(values["loss"]))
            place.log({"run": about, "step": now, "seconds": run.seconds, **log.means(values)})
            if run.seconds > limit:
                break
    return run
