"""Data augmentation with samples of VAML, compared with affine copies of the support set."""

import itertools
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from lml_jax import evaluate, metrics, nets
from lml_jax.data.episodes import episodes
from lml_jax.experiments import vaml
from lml_jax.experiments.progress import Trained
from lml_jax.experiments.record import Record
from lml_jax.experiments.runner import Experiment, Place
from lml_jax.experiments.vaml import Setup, Vaml
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
class Augmentation:
    """Settings of the comparison.

    Weight, decay and jitter are chosen for each arm and number of shots, among all combinations,
    by the accuracy on `chosen_on` episodes of alphabets that VAML was not trained on.
    """

    vaml: Vaml = field(default_factory=lambda: Vaml(held_out=5))
    shots: tuple[int, ...] = (1, 5)
    copies: int = 40  # per class, of either kind
    weights: tuple[float, ...] = (0.5, 1.0, 4.0)  # of what is added, against the support set
    decays: tuple[float, ...] = (0.0, 0.1)
    jitters: tuple[float, ...] = (0.5, 1.0, 1.5)
    chosen_on: int = 200
    episodes: int = 1000
    steps: int = 200  # of the classifier
    rate: float = 0.01


class Built(NamedTuple):
    """The settings, and what VAML's training is made of."""

    settings: Augmentation
    setup: Setup


def build(settings: Augmentation) -> Built:
    """Everything a run is made of.

    Raises:
        ValueError: where no alphabet is held out to choose on.
    """
    if settings.vaml.held_out < 1:
        raise ValueError("held_out must be at least 1 alphabet, to choose strengths on; got 0")
    return Built(settings, vaml.build(settings.vaml))


def score_arms(built: Built, trained: Trained, place: Place) -> Record:
    """The comparison for each number of shots."""
    s, setup = built
    state, hidden = trained.state, place.hidden
    return {
        "learner": "classifier trained from scratch, augmented by vaml",
        "data": s.vaml.data,
        "vaml_steps": int(state.step),
        "tests": [compared(s, setup, state, shots, hidden=hidden) for shots in s.shots],
        **vaml.data_of(setup),
    }


def compared(
    s: Augmentation, setup: Setup, state: TrainState, shots: int, *, hidden: bool | None
) -> Record:
    """Accuracy of each arm with what was chosen for it, and paired differences, with 95 % CI."""
    assert setup.held_out is not None
    n = s.vaml.ways * s.copies
    drawn, moved = generated(setup.generator, n=n), jittered(n=n)
    arms = {
        "none": (),
        "generated": (drawn,),
        "affine": (moved,),
        "generated+affine": (drawn, moved),
    }
    scores: dict[str, np.ndarray] = {}
    row: Record = {"shots": shots, "episodes": s.episodes, "arms": {}, "differences": {}}
    for name, augments in tqdm(arms.items(), disable=hidden, desc=f"{shots} shots"):
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


def candidates(s: Augmentation, *, adds: bool, moves: bool) -> Strength:
    """Every combination that matters to an arm, each number [k]."""
    combinations = itertools.product(
        s.weights if adds else (1.0,), s.decays, s.jitters if moves else (1.0,)
    )
    return Strength(*map(jnp.array, zip(*combinations, strict=True)))


def accuracies(
    s: Augmentation,
    augments: tuple[Augment, ...],
    state: TrainState,
    shots: int,
    strengths: Strength,
    data: Dataset,
    n: int,
    key: Key,
) -> np.ndarray:
    """Accuracy of each strength in n episodes, [n, k]; with one key, arms see the same episodes."""
    of_task = trained_from_nothing(nets.mlp([], s.vaml.ways), augments, steps=s.steps, rate=s.rate)

    def of_each(params: tuple[TrainState, Strength], task: Task, key: Key) -> Array:
        state, strengths = params
        return jax.vmap(lambda one: of_task((state, one), task, key)[0])(strengths)

    sample = episodes(data, tasks=10, ways=s.vaml.ways, shots=shots, queries=s.vaml.queries)
    batches = evaluate.over_episodes(
        of_each, (state, strengths), sample, jax.device_put(data), key, episodes=n
    )
    return np.concatenate(list(batches))


def table(record: Record) -> str:
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


AUGMENTATION: Experiment[Augmentation, Built, Trained] = Experiment(
    build,
    lambda built, place: vaml.train_vaml(built.setup, place),
    score_arms,
    table,
    lambda built: asdict(built.settings),
    seeded=lambda settings, seed: replace(settings, vaml=replace(settings.vaml, seed=seed)),
)
