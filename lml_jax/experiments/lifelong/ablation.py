"""Does a loss on past tasks keep them? Ablations over its weight, paired by seed."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lml_jax import train
from lml_jax.checkpoint import Keeper, keeper
from lml_jax.data.episodes import episodes
from lml_jax.data.omniglot import omniglot
from lml_jax.experiments.lifelong.run import run_lifelong
from lml_jax.experiments.lifelong.settings import Lifelong, sizes
from lml_jax.experiments.progress import train_with_bar
from lml_jax.experiments.record import CHECKPOINTS, open_folder, resumable, write_metrics
from lml_jax.types import Key, Learner, Params, Task

Arms = dict[str, dict[str, Any]]  # name -> settings of it; the first is compared with
HISTORY: Arms = {
    "none": {"decay": None}, "0.5": {"decay": 0.5}, "0.9": {"decay": 0.9}, "1": {"decay": 1.0},
}  # fmt: skip
TRANSFER: Arms = {
    "0": {"transfer": 0.0},
    "0.3": {"transfer": 0.3},
    "1": {"transfer": 1.0},
    "1 statistics": {"transfer": 1.0, "recall_by": "statistics"},
}
FIGURES = (
    "acc", "forgetting", "bwt", "learning_accuracy", "learning_accuracy_task", "acc_task",
    "acc_adapted", "fwt_adapted",
)  # fmt: skip
# Student's t, two-sided 95 %, for 2..10 paired runs.
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def ablation(
    learner: str,
    arms: Arms,
    *,
    meta_trained: bool = False,
    settings: Lifelong | None = None,
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    start_steps: int = 2000,
) -> Callable[..., str]:
    """(folder, resume=False) -> report: a learner with each arm's settings, all else the same.

    Args:
        learner: by the name that the command line has for it.
        arms: settings that replace those of `settings`.
        meta_trained: begin from parameters meta-trained on the background classes, else from new
            ones.
        settings: of the runs.
        seeds: of the paired runs, 2 to 10.
        start_steps: meta-steps of the start.
    """
    base = settings or Lifelong(data="omniglot", steps=100)
    if len(seeds) not in T95:
        raise ValueError(f"expected 2 to 10 paired seeds, got {len(seeds)}")

    def run(out: Path, *, resume: bool = False) -> str:
        folder = open_folder(out, resume=resume)
        starts: dict[int, Params] = {}

        def start(seed: int, learner: Learner) -> Params:
            if seed not in starts:
                config = {**resumable(base), "start_steps": start_steps, "seed": seed}
                with keeper(folder / CHECKPOINTS / f"start_seed{seed}", config=config) as keeping:
                    starts[seed] = meta_train(
                        learner, base, seed, steps=start_steps, keeper=keeping
                    )
            return starts[seed]

        runs: dict[str, list[dict[str, Any]]] = {}
        for arm, changes in arms.items():
            result = run_lifelong(
                replace(base, **changes),
                folder / arm.replace(" ", "_"),
                learners=(learner,),
                seeds=seeds,
                start=start if meta_trained else None,
                resume=resume,
            )
            runs[arm] = result["runs"]
        comparison = compare(runs)
        write_metrics(folder, {"settings": asdict(base), "comparison": comparison})
        return report(comparison, len(seeds))

    return run


def meta_train(
    learner: Learner, settings: Lifelong, seed: int, *, steps: int, keeper: Keeper
) -> Params:
    """Parameters meta-trained on background classes, over the head the stream will use.

    An episode's classes are dealt to random units of the head, so that all of them are trained
    and none belongs to a class.
    """
    background = omniglot("background", data_dir=settings.data_dir)
    tasks, ways = sizes(settings)
    units = tasks * ways
    drawn = episodes(
        background,
        tasks=settings.meta_batch,
        ways=ways,
        shots=settings.shots,
        queries=settings.queries,
    )

    def sample(data: Any, key: Key) -> Task:
        key_draw, key_unit = jax.random.split(key)
        episode = drawn(data, key_draw)
        keys = jax.random.split(key_unit, settings.meta_batch)
        unit = jax.vmap(lambda k: jax.random.permutation(k, units)[:ways])(keys).astype(jnp.int32)
        return episode._replace(
            support=episode.support._replace(y=jnp.take_along_axis(unit, episode.support.y, 1)),
            query=episode.query._replace(y=jnp.take_along_axis(unit, episode.query.y, 1)),
        )

    key_init, key_train = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    tx = optax.adam(settings.outer_rate)
    state = train.init_state(learner.init(key_init, background.x[:1]), tx)
    step = train.make_train_step(train.episode_loss(learner), tx)
    return train_with_bar(
        step,
        sample,
        state,
        background,
        key_train,
        steps=steps,
        scan=settings.net == "mlp",
        chunk=100,
        about=f"start, seed {seed}",
        keeper=keeper,
    ).state.params


def compare(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each arm's figures, and its paired differences to the first arm."""
    without = next(iter(runs.values()))
    result = {}
    for arm, own in runs.items():
        result[arm] = {
            key: {
                "mean": float(np.mean([run[key] for run in own])),
                "difference": paired([run[key] for run in own], [run[key] for run in without]),
            }
            for key in FIGURES
        }
    return result


def paired(a: list[float], b: list[float]) -> tuple[float, float]:
    """Mean of a - b over paired runs, and half its 95 % interval, by Student's t.

    Example:
        >>> paired([3.0, 5.0], [1.0, 1.0])
        (3.0, 12.706)
    """
    difference = np.asarray(a) - np.asarray(b)
    n = len(difference)
    return float(difference.mean()), float(T95[n] * difference.std(ddof=1) / np.sqrt(n))


def report(comparison: dict[str, Any], seeds: int) -> str:
    """The arms side by side, in percent."""
    lines = [
        f"{seeds} paired seeds; in brackets the difference to the first row, with its 95 % half"
    ]
    lines.append(f"{'lambda':14s}" + "".join(f"{key:>26s}" for key in FIGURES))
    for arm, figures in comparison.items():
        cells = []
        for key in FIGURES:
            mean, (shift, half) = figures[key]["mean"], figures[key]["difference"]
            cells.append(f"{100 * mean:8.1f} ({100 * shift:+5.1f} ± {100 * half:4.1f})")
        lines.append(f"{arm:14s}" + "".join(f"{cell:>26s}" for cell in cells))
    return "\n".join(lines)
