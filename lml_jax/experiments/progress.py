"""Training with a bar that shows how it goes."""

import time
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lml_jax import train
from lml_jax.checkpoint import FORGETFUL, Keeper
from lml_jax.types import Key

SHOWN = ("loss", "true_loss", "accuracy")


class Trained(NamedTuple):
    """What is kept of training: its state, and the seconds that went into it."""

    state: Any
    seconds: float
    watched: dict[str, np.ndarray]  # by name [steps], nan where they are not done


def train_with_bar(
    step: train.Step,
    sample: Any,
    state: Any,
    data: Any,
    key: Key,
    *,
    steps: int,
    scan: bool,
    chunk: int,
    about: str,
    minutes: float | None = None,
    progress: bool = True,
    keeper: Keeper = FORGETFUL,
    watch: tuple[str, ...] = (),
) -> Trained:
    """`train.run` from `state` to `steps` updates in all, or for so many minutes of it.

    What `keeper` has kept goes on from there, bit for bit as if it had not been cut. The metrics
    named in `watch` are kept of every step.

    Raises:
        train.DivergedError: if a loss or gradient was not finite.
    """
    unknown = np.full(steps, np.nan, np.float32)
    run = keeper.start(Trained(state, 0.0, dict.fromkeys(watch, unknown)))
    begun = time.perf_counter() - run.seconds
    done, seconds = int(run.state.step), float("inf") if minutes is None else 60 * minutes
    if done >= steps or run.seconds > seconds:
        return run
    with tqdm(total=steps, initial=done, disable=not progress, unit="step", desc=about) as bar:
        for current, values in train.run(
            step, sample, run.state, data, key, steps=steps - done, scan=scan, chunk=chunk
        ):
            now = int(current.step)
            watched = {
                name: np.concatenate([old[:done], values[name], old[now:]])
                for name, old in run.watched.items()
            }
            run, done = Trained(current, time.perf_counter() - begun, watched), now
            means = {k: float(jnp.mean(values[k])) for k in SHOWN if k in values}
            keeper.save(now, run, -means["loss"])
            bar.set_postfix({k: f"{value:.4f}" for k, value in means.items()})
            bar.update(len(values["loss"]))
            if run.seconds > seconds:
                break
    return run
