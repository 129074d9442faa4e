"""A generator that does not forget: the learner of `lifelong.generative` on digits, measured."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from lml_jax import generator_metrics as measures
from lml_jax import metrics, nets, plots
from lml_jax.data import streams
from lml_jax.data.digits import digits
from lml_jax.data.sources import mnist
from lml_jax.generative.gan import conditional_gan
from lml_jax.learners.maml import maml
from lml_jax.lifelong.generative import lifelong_generative
from lml_jax.lifelong.head import head_of
from lml_jax.lifelong.stream import StreamRun, run_stream
from lml_jax.names import known
from lml_jax.recipes.judge import grid_labels, judge_of
from lml_jax.recipes.record import (
    keeping_last_good,
    open_folder,
    tree_bytes,
    versions,
    write_metrics,
)
from lml_jax.types import Dataset, Generator, LifelongLearner, Stream

DATA = ("digits", "mnist")


@dataclass(frozen=True)
class Generation:
    """Settings of a run of the generative learner; what is written in its record."""

    data: str = "digits"  # digits (8x8, in scikit-learn) or mnist
    tasks: int = 5
    classes_per_task: int = 2
    steps: int = 2000  # on each task, of D, G and the classifier each
    batch: int = 64  # real examples in each, over the classes of the task
    transfer: str = "align"  # the reading of L_j
    weight: float = 1.0  # lambda
    reduction: str = "mean"  # over past tasks
    per_class: int = 10  # examples of each class that `bank` keeps
    loss: str = "relativistic"
    penalty: float = 1.0  # gamma
    rate: float = 1e-3  # of G and D, falling along a cosine on each task
    ema: float = 0.998
    hidden: int = 256  # width of the two hidden layers of G and of D
    noise: int = 32
    classifier: int = 256  # width of the two hidden layers of f_theta
    classifier_rate: float = 1e-3
    augment: int = 32  # samples that join the arriving task, after half of its steps
    test_augment: int = 32  # samples that join the support set of a test task
    temperature: float = 2.0  # of the old classifier's labels of past samples
    train_per_class: int | None = 143  # of the digits; None with mnist: all
    samples: int = 500  # of each class, for the measures
    neighbours: int = 5
    collapse: float = 0.5  # warn below this spread
    data_dir: str | None = None


class Made(NamedTuple):
    """What a run is made of."""

    stream: Stream
    generator: Generator
    learner: LifelongLearner


def run_generation(
    settings: Generation,
    out: str | Path,
    *,
    arms: dict[str, dict[str, Any]],
    seeds: tuple[int, ...] = (0,),
    progress: bool = True,
) -> dict[str, Any]:
    """Run the generative learner once for each arm and seed; metrics and sample grids into `out`.

    Args:
        settings: what the arms share.
        out: a folder that is absent or empty.
        arms: by name, the settings that differ.
        seeds: each makes its own stream and start, shared by the arms.
        progress: show a bar.

    Returns:
        What `metrics.json` holds.

    Raises:
        ValueError: for settings that cannot be run, before anything is trained.
        train.DivergedError: if D, G or the classifier was not finite.
    """
    if not arms or not seeds:
        raise ValueError(f"nothing to run: arms {list(arms)}, seeds {seeds}")
    known(settings.data, DATA, what="data set")
    each = {name: replace(settings, **options) for name, options in arms.items()}
    made = {(name, seed): build(s, seed) for name, s in each.items() for seed in seeds}
    folder = open_folder(out)
    runs: list[dict[str, Any]] = []
    with keeping_last_good(folder):
        for (name, seed), parts in made.items():
            runs.append(run_one(each[name], name, seed, parts, folder, progress))
            write_metrics(folder, {"runs": runs})
    return {"runs": runs}


def build(settings: Generation, seed: int) -> Made:
    """The stream of a seed, the generator and the learner."""
    s = settings
    train_data, test_data = data_of(s)
    per_class = s.batch // s.classes_per_task
    stream = streams.class_incremental(
        train_data,
        tasks=s.tasks,
        classes_per_task=s.classes_per_task,
        seed=seed,
        test=test_data,
        train_per_class=None if s.data == "mnist" else s.train_per_class,
        shots=per_class // 2,
        queries=per_class - per_class // 2,
        meta_batch=1,
    )
    shape = train_data.x.shape[1:]
    # Adam without momentum: what D looked like some steps ago says nothing about it now.
    tx = optax.adam(optax.cosine_decay_schedule(s.rate, s.steps, 0.05), b1=0.0, b2=0.99)
    generator, finish = conditional_gan(
        nets.generator([s.hidden] * 2, shape),
        nets.projection_discriminator([s.hidden] * 2),
        tx,
        tx,
        tasks=s.tasks,
        classes=stream.classes,
        noise=s.noise,
        loss=s.loss,
        penalty=s.penalty,
        ema=s.ema,
        transfer=s.transfer,
        weight=s.weight,
        reduction=s.reduction,
        past_batch=s.batch,
        per_class=s.per_class,
    )
    few_shot = maml(nets.mlp([s.classifier] * 2, stream.classes), optax.sgd(0.1), steps=1)
    learner = lifelong_generative(
        few_shot,
        optax.adam(s.classifier_rate),
        head_of(stream),
        generator,
        finish,
        replay_batch=s.batch,
        augment_batch=s.augment,
        augment_from=s.steps // 2,
        test_batch=s.test_augment,
        temperature=s.temperature,
    )
    return Made(stream, generator, learner)


def data_of(settings: Generation) -> tuple[Dataset, Dataset | None]:
    """Training examples and, where they are apart, test examples."""
    if settings.data == "digits":
        return digits(), None
    train_data, test_data = (mnist(part, data_dir=settings.data_dir) for part in ("train", "test"))
    return train_data, test_data


def run_one(
    settings: Generation, name: str, seed: int, made: Made, folder: Path, progress: bool
) -> dict[str, Any]:
    """The record of one arm with one seed; a grid of samples after each task."""
    s, tasks = settings, settings.tasks
    judge = judge_of(made.stream, made.generator, samples=s.samples, neighbours=s.neighbours)
    rows: list[dict[str, Any]] = []
    warned: list[str] = []

    with tqdm(total=tasks * s.steps, disable=not progress, desc=f"{name}, seed {seed}") as bar:

        def on_chunk(task: int, done: int, values: Any) -> None:
            shown = {key: float(jnp.nanmean(values[key])) for key in ("d_loss", "loss", "spread")}
            bar.set_postfix(task=task, **{key: f"{value:.2f}" for key, value in shown.items()})
            bar.update(task * s.steps + done - bar.n)

        def on_row(row: int, so_far: StreamRun) -> None:
            if row == 0:
                return
            found = judge(
                so_far.state.generator, row, jax.random.fold_in(jax.random.key(seed), row)
            )
            grid = plots.sample_grid(
                found.pop("grid"),
                grid_labels(made.stream, row),
                title=f"{name}, seed {seed}, after task {row}",
            )
            plots.save(grid, folder / f"samples_{name}_seed{seed}_task{row}.png")
            rows.append(found)
            where = f" ({name}, seed {seed}, after task {row})"
            message = measures.warn_if_collapsed(found["spread"], threshold=s.collapse, where=where)
            if message:
                warned.append(message)

        run = run_stream(
            made.learner,
            made.stream,
            jax.random.key(seed),
            steps=s.steps,
            scan=True,
            chunk=min(s.steps, 250),
            on_chunk=on_chunk,
            on_row=on_row,
        )
    cas = np.stack([np.full(tasks, np.nan), *(found.pop("cas") for found in rows)])
    return {
        "learner": f"generative, {name}",
        "arm": name,
        "data": s.data,
        "scenario": "class",
        "seed": seed,
        "R": run.R,
        "R_task": run.R_task,
        "R_adapted": run.R_adapted,
        "cas": cas,
        **metrics.summary(run.R),
        **{f"{key}_cas": value for key, value in metrics.summary(cas).items()},
        "generator": rows,
        "warnings": warned,
        "seconds": run.seconds,
        "bytes": {
            "params": tree_bytes(run.state.train.params),
            "bank": tree_bytes(run.state.generator.memory) if s.transfer == "bank" else 0,
            "generator": tree_bytes(run.state.generator),
        },
        "config": asdict(s),
        "versions": versions(),
    }


COLUMNS = {
    "acc_cas": "CAS",
    "forgetting_cas": "forgetting",
    "acc": "f_theta",
    "spread": "spread",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "two_sample": "C2ST",
    "memorisation": "memorisation",
}


def table(result: dict[str, Any]) -> str:
    """A line for each arm and seed, after the last task, and the mean over seeds."""
    runs = result["runs"]
    lines = [f"{'':36s}" + "".join(f"{title:>14s}" for title in COLUMNS.values()) + f"{'s':>8s}"]

    def line(about: str, values: dict[str, float], seconds: float) -> None:
        cells = "".join(f"{values[key]:14.3f}" for key in COLUMNS)
        lines.append(f"{about:36s}{cells}{seconds:8.0f}")

    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = [run for run in runs if run["arm"] == arm]
        found = [{**run, **run["generator"][-1]} for run in own]
        seconds = [sum(run["seconds"].values()) for run in own]
        for run, values, spent in zip(own, found, seconds, strict=True):
            line(f"{arm}, seed {run['seed']}", values, spent)
        if len(own) > 1:
            means = {key: float(np.mean([values[key] for values in found])) for key in COLUMNS}
            line(f"{arm}, mean of {len(own)}", means, float(np.mean(seconds)))
    return "\n".join(lines)


def recipe(
    settings: Generation, arms: dict[str, dict[str, Any]], *, seeds: tuple[int, ...] = (0, 1, 2)
) -> Callable[[Path], str]:
    """(folder) -> report: every arm with every seed."""
    return lambda out: table(run_generation(settings, out, arms=arms, seeds=seeds))
