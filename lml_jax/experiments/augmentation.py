"""What VAML's samples are worth to a classifier trained from nothing, beside affine copies."""

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from lml_jax import evaluate, metrics, nets
from lml_jax.checkpoint import keeper
from lml_jax.data.episodes import episodes
from lml_jax.experiments.record import (
    CHECKPOINTS,
    keeping_last_good,
    open_folder,
    resumable,
    versions,
    write_metrics,
)
from lml_jax.experiments.vaml import Setup, Vaml, omniglot, trained
from lml_jax.metrics.augmentation import (
    Augment,
    Strength,
    generated,
    jittered,
    trained_from_nothing,
)
from lml_jax.types import Dataset, Key, Task, TrainState

COMPARED = (
    ("generated", "none"),
    ("affine", "none"),
    ("generated", "affine"),
    ("generated+affine", "affine"),
)


@dataclass(frozen=True)
class Gain:
    """Settings of the comparison; what is written in its record.

    Weight, decay and jitter are chosen for each arm and number of shots, among all combinations,
    by the accuracy on `chosen_on` episodes of alphabets that VAML was not trained on.
    """

    vaml: Vaml = field(default_factory=lambda: Vaml(held_out=5))
    shots: tuple[int, ...] = (1, 5)
    copies: int = 40  # of each class, of either kind
    weights: tuple[float, ...] = (0.5, 1.0, 4.0)  # of what is added, against the support set
    decays: tuple[float, ...] = (0.0, 0.1)
    jitters: tuple[float, ...] = (0.5, 1.0, 1.5)
    chosen_on: int = 200
    episodes: int = 1000
    steps: int = 200  # of the classifier
    rate: float = 0.01


def run_gain(
    settings: Gain,
    out: str | Path,
    *,
    minutes: float | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train VAML, choose strengths, compare; `metrics.json` and `params.npz` into `out`.

    Args:
        settings: what to run.
        out: a folder that is absent or empty; with `resume`, also one of a run that was cut.
        minutes: of training VAML, at most.
        resume: go on with that training from its newest checkpoint, bit for bit.
        progress: show bars.

    Returns:
        The record written.

    Raises:
        ValueError: where no alphabet is held out to choose on.
        train.DivergedError: if a loss was not finite.
    """
    s = settings
    if s.vaml.held_out < 1:
        raise ValueError("held_out must be at least 1 alphabet, to choose strengths on; got 0")
    setup, folder = omniglot(s.vaml), open_folder(out, resume=resume)
    kept = keeper(folder / CHECKPOINTS, config=resumable(s.vaml))
    with keeping_last_good(folder), kept as keeping:
        run = trained(s.vaml, setup, folder, keeping, minutes=minutes, progress=progress)
        begun = time.perf_counter()
        rows = [compared(s, setup, run.state, shots, progress=progress) for shots in s.shots]
    record = {
        "learner": "classifier from nothing, augmented by vaml",
        "data": "omniglot",
        "vaml_steps": int(run.state.step),
        "tests": rows,
        "seconds": {"train": run.seconds, "eval": time.perf_counter() - begun},
        "config": asdict(s),
        "versions": versions(),
    }
    write_metrics(folder, record)
    return record


def compared(
    s: Gain, setup: Setup, state: TrainState, shots: int, *, progress: bool
) -> dict[str, Any]:
    """Accuracy of each arm with what was chosen for it, and paired differences, with 95 % CI."""
    n = s.vaml.ways * s.copies
    made, moved = generated(setup.generator, n=n), jittered(n=n)
    arms = {"none": (), "generated": (made,), "affine": (moved,), "generated+affine": (made, moved)}
    scores: dict[str, np.ndarray] = {}
    row: dict[str, Any] = {"shots": shots, "episodes": s.episodes, "arms": {}, "differences": {}}
    for name, augments in tqdm(arms.items(), disable=not progress, desc=f"{shots} shots"):
        every = candidates(s, adds=bool(augments), moves=moved in augments)
        measure = partial(accuracies, s, augments, state, shots)
        tried = measure(every, setup.held_out, s.chosen_on, jax.random.key(1)).mean(0)
        best = Strength(*(jnp.asarray(number)[int(np.argmax(tried))][None] for number in every))
        scores[name] = measure(best, setup.test_set, s.episodes, jax.random.key(2))[:, 0]
        mean, half = metrics.mean_ci(scores[name])
        chosen = {key: float(value[0]) for key, value in best._asdict().items()}
        row["arms"][name] = {"accuracy": mean, "ci95": half, **chosen}
    for one, other in COMPARED:
        mean, half = metrics.mean_ci(scores[one] - scores[other])
        row["differences"][f"{one} - {other}"] = {"mean": mean, "ci95": half}
    return row


def candidates(s: Gain, *, adds: bool, moves: bool) -> Strength:
    """Every combination that matters to an arm, each number [k]."""
    combinations = itertools.product(
        s.weights if adds else (1.0,), s.decays, s.jitters if moves else (1.0,)
    )
    return Strength(*map(jnp.array, zip(*combinations, strict=True)))


def accuracies(
    s: Gain,
    augments: tuple[Augment, ...],
    state: TrainState,
    shots: int,
    strengths: Strength,
    data: Dataset,
    n: int,
    key: Key,
) -> np.ndarray:
    """Of each strength in n episodes, [n, k]; with one key, every arm sees the same episodes."""
    of_task = trained_from_nothing(nets.mlp([], s.vaml.ways), augments, steps=s.steps, rate=s.rate)

    def of_each(params: tuple[TrainState, Strength], task: Task, key: Key) -> Array:
        state, strengths = params
        return jax.vmap(lambda one: of_task((state, one), task, key)[0])(strengths)

    sample = episodes(data, tasks=10, ways=s.vaml.ways, shots=shots, queries=s.vaml.queries)
    batches = evaluate.over_episodes(of_each, (state, strengths), sample, data, key, episodes=n)
    return np.concatenate(list(batches))


def table(record: dict[str, Any]) -> str:
    """Accuracies and differences in points, for each number of shots."""
    lines = [f"VAML trained for {record['vaml_steps']} steps"]
    for row in record["tests"]:
        lines.append(f"{row['shots']} shots, {row['episodes']} episodes")
        for name, arm in row["arms"].items():
            chosen = ", ".join(f"{key} {arm[key]:g}" for key in Strength._fields)
            score = f"{100 * arm['accuracy']:6.2f} ± {100 * arm['ci95']:.2f}"
            lines.append(f"  {name:28s}{score}   ({chosen})")
        for name, found in row["differences"].items():
            lines.append(f"  {name:28s}{100 * found['mean']:+6.2f} ± {100 * found['ci95']:.2f}")
    return "\n".join(lines)


def recipe(settings: Gain, *, minutes: float | None = None) -> Callable[..., str]:
    """(folder, resume=False) -> report."""
    return lambda out, **options: table(run_gain(settings, out, minutes=minutes, **options))
