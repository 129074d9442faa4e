"""Training with a bar that shows how it goes."""

import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from tqdm import tqdm

from lml_jax import train
from lml_jax.types import Key, Metrics

SHOWN = ("loss", "true_loss", "accuracy")


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
    watch: Callable[[Metrics], None] | None = None,
) -> Any:
    """The state after `train.run`, or after so many minutes of it.

    `watch` is called with the metrics of each chunk of steps.

    Raises:
        train.DivergedError: if a loss or gradient was not finite.
    """
    begun = time.perf_counter()
    with tqdm(total=steps, disable=not progress, unit="step", desc=about) as bar:
        for current, values in train.run(
            step, sample, state, data, key, steps=steps, scan=scan, chunk=chunk
        ):
            state = current
            means = {k: float(jnp.mean(values[k])) for k in SHOWN if k in values}
            bar.set_postfix({k: f"{value:.4f}" for k, value in means.items()})
            bar.update(len(values["loss"]))
            if watch is not None:
                watch(values)
            if minutes is not None and time.perf_counter() - begun > 60 * minutes:
                break
    return state
