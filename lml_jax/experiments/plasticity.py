"""Does a network stay able to learn? Permuted MNIST, one task after another."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from tqdm import tqdm

from lml_jax import losses, metrics, nets, plots
from lml_jax.data.mnist import mnist
from lml_jax.experiments.intervals import interval
from lml_jax.experiments.once import run_each
from lml_jax.experiments.recipe import Recipe
from lml_jax.experiments.record import Record, fingerprint, versions
from lml_jax.experiments.runner import Place, Report
from lml_jax.plasticity import (
    activations_of_mlp,
    continual_backprop,
    l2_init,
    layers_of_mlp,
    redo,
    shrink_and_perturb,
)
from lml_jax.settings import check_numbers, check_seeds
from lml_jax.types import Key, Net, Params, PyTree
from lml_jax.updates import Transformation, transformation


@dataclass(frozen=True)
class Permuted:
    """Settings: each task shows the same images with their pixels in a new random order."""

    tasks: int = 500
    images: int = 10_000  # the same in each task, each seen once
    batch: int = 16
    hidden: tuple[int, ...] = (100, 100)  # widths of the hidden layers
    rate: float = 1e-3  # step size of Adam
    last: int = 50  # tasks whose mean is the accuracy at the end
    seeds: tuple[int, ...] = (0, 1, 2)
    data_dir: str | None = None  # folder of prepared data


_BLOCK = 10  # tasks between two steps of the progress bar
Make = Callable[[Permuted, Key], optax.GradientTransformation]


def _units(s: Permuted) -> dict[str, object]:
    hidden = len(s.hidden)
    return {"layers": layers_of_mlp(hidden), "activations": activations_of_mlp(hidden)}


RULES: Mapping[str, Make] = {
    "adam": lambda s, key: optax.adam(s.rate),
    "l2-init": lambda s, key: l2_init(optax.adam(s.rate), strength=1e-3),
    "cbp": lambda s, key: continual_backprop(optax.adam(s.rate), key, **_units(s)),  # type: ignore[arg-type]
    "redo": lambda s, key: redo(optax.adam(s.rate), key, **_units(s)),  # type: ignore[arg-type]
    "shrink-perturb": lambda s, key: shrink_and_perturb(
        optax.adam(s.rate), key, shrink=1e-5, noise=1e-4
    ),
}


class Course(NamedTuple):
    """What is measured in each task, [T].

    Attributes:
        online: accuracy on each batch before it was learned, a mean over the task.
        dormant: share of hidden units that are 0 for all of 1,000 images, after the task.
        rank: effective rank of the last hidden layer on these images, as a share of its units.
        norm: mean |w|, after the task.
    """

    online: Array
    dormant: Array
    rank: Array
    norm: Array


def some_tasks(
    net: Net, tx: Transformation, s: Permuted, x: Array, y: Array, start: PyTree, keys: Key
) -> tuple[PyTree, Course]:
    """Some tasks, one after another: a pure function.

    Args:
        net: the network, an mlp.
        tx: the update rule, given each batch as `x`.
        s: settings.
        x: images [n, d], floats.
        y: labels [n].
        start: (parameters, state of the rule).
        keys: of each task, its permutation and the order of the images.

    Returns:
        (parameters, state of the rule) after the tasks, and what was measured.
    """
    activations, steps = activations_of_mlp(len(s.hidden)), len(x) // s.batch

    def loss(params: Params, x: Array, y: Array) -> tuple[Array, Array]:
        logits = net.apply(params, x)
        return losses.cross_entropy(logits, y).mean(), (logits.argmax(1) == y).mean()

    def task(carry: PyTree, key: Key) -> tuple[PyTree, Course]:
        key_pixels, key_order = jax.random.split(key)
        shown = x[:, jax.random.permutation(key_pixels, x.shape[1])]
        rows = jax.random.permutation(key_order, len(x))[: steps * s.batch]

        def step(carry: PyTree, rows: Array) -> tuple[PyTree, Array]:
            params, state = carry
            batch = shown[rows]
            (_, right), grads = jax.value_and_grad(loss, has_aux=True)(params, batch, y[rows])
            updates, state = tx.update(grads, state, params, x=batch)
            return (optax.apply_updates(params, updates), state), right

        carry, online = jax.lax.scan(step, carry, rows.reshape(steps, s.batch))
        h = activations(carry[0], shown[:1000])
        dormant = jnp.concatenate([metrics.activity(layer) <= 0 for layer in h]).mean()
        rank = metrics.effective_rank(h[-1]) / h[-1].shape[1]
        return carry, Course(online.mean(), dormant, rank, metrics.weight_norm(carry[0]))

    return jax.lax.scan(task, start, keys)


def compare(rules: Mapping[str, Make] = RULES) -> Callable[[Permuted], Report]:
    """Settings -> (folder, resume=False) -> report: every rule with every seed."""

    def report_of(settings: Permuted) -> Report:
        def run(out: Path, *, resume: bool = False) -> str:
            return table(run_rules(rules, settings, out, resume=resume)["runs"])

        return run

    return report_of


def run_rules(
    rules: Mapping[str, Make], settings: Permuted, out: Path, *, resume: bool = False
) -> Record:
    """Train by every rule with every seed into `out`; a run that was finished there is kept.

    Raises:
        ValueError: for settings that cannot be, or no or repeated seeds.
    """
    s = settings
    least = dict.fromkeys(("tasks", "images", "batch", "last"), 1)
    check_numbers(s, least=least, above=["rate"])
    check_seeds(s.seeds)
    data = mnist("train", data_dir=s.data_dir)
    labels = np.repeat(np.arange(data.classes), np.asarray(data.count))
    some = np.random.default_rng(0).permutation(len(labels))[: s.images]
    images = np.asarray(data.x)[np.asarray(data.rows)[some]].reshape(len(some), -1)
    x, y = jnp.asarray(images / np.float32(255)), jnp.asarray(labels[some])
    net = nets.mlp(s.hidden, data.classes)
    config = {name: value for name, value in asdict(s).items() if name != "seeds"}
    # One program of each rule for all seeds.
    programs = {name: jax.jit(partial(_block, net, make, s)) for name, make in rules.items()}

    def one(name: str, seed: int, place: Place) -> Record:
        begun = perf_counter()
        key_init, key_rule, key_tasks = jax.random.split(jax.random.key(seed), 3)
        params = net.init(key_init, x[:1])
        carry = params, transformation(rules[name](s, key_rule)).init(params)
        parts, keys = [], jax.random.split(key_tasks, s.tasks)
        title = f"{name}, seed {seed}"
        with tqdm(total=s.tasks, disable=place.hidden, unit="task", desc=title) as bar:
            for begin in range(0, s.tasks, _BLOCK):
                block = keys[begin : begin + _BLOCK]
                carry, part = programs[name](x, y, key_rule, carry, block)
                parts.append(jax.tree.map(np.asarray, part))
                bar.update(len(block))
        found = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return {
            **found._asdict(),
            "average": float(found.online.mean()),
            "first": float(found.online[: s.last].mean()),
            "end": float(found.online[-s.last :].mean()),
            "seconds": {"train": perf_counter() - begun},
            "config": config,
            "versions": versions(),
            "data_made": {"train": fingerprint(data)},
        }

    return run_each(rules, s.seeds, one, out, config=config, figures=write_figure, resume=resume)


def _block(
    net: Net, make: Make, s: Permuted, x: Array, y: Array, key: Key, carry: PyTree, keys: Key
) -> tuple[PyTree, Course]:
    return some_tasks(net, transformation(make(s, key)), s, x, y, carry, keys)


def write_figure(result: Record, folder: Path) -> None:
    """Accuracy while learning and dormant units, over the tasks."""
    plots.save(plots.plasticity(metrics.to_json(result)["runs"]), folder / "plasticity.png")


def table(runs: list[Record]) -> str:
    """A line for each rule: means over seeds, with half of their 95 % interval."""
    names = list(dict.fromkeys(run["learner"] for run in runs))
    last = runs[0]["config"]["last"]
    lines = [
        f"online accuracy in percent, with half of its 95 % interval over "
        f"{len({run['seed'] for run in runs})} paired seeds; in brackets the difference at the end "
        f"to {names[0]}; the first and the last are of {last} tasks",
        f"{'':16s}{'all tasks':>14s}{'first':>14s}{'last':>14s}{'difference':>18s}"
        f"{'dormant':>9s}{'rank':>7s}{'mean |w|':>10s}{'s':>6s}",
    ]
    base = [run["end"] for run in runs if run["learner"] == names[0]]
    for name in names:
        own = [run for run in runs if run["learner"] == name]
        cells = "".join(
            f"{interval([run[key] for run in own]):>14s}" for key in ("average", "first", "end")
        )
        shift = f"({interval([run['end'] for run in own], base)})"
        dormant, rank, norm = (
            float(np.mean([np.asarray(run[key])[-last:].mean() for run in own]))
            for key in ("dormant", "rank", "norm")
        )
        seconds = float(np.mean([run["seconds"]["train"] for run in own]))
        lines.append(
            f"{name:16s}{cells}{shift:>18s}{100 * dormant:8.1f}%{100 * rank:6.0f}%{norm:10.4f}"
            f"{seconds:6.0f}"
        )
    return "\n".join(lines)


recipes: dict[str, Recipe] = {
    "permuted-mnist-plasticity": Recipe(
        "Permuted MNIST, 500 tasks of 10,000 images seen once in batches of 16, an MLP of 100 and "
        "100, Adam; mean accuracy on each batch before it is learned; 3 seeds",
        "Kumar et al. 2023, Dohare et al. 2024: figures only; L2 Init and continual backprop "
        "stay above Adam",
        Permuted(),
        compare(),
        Permuted(tasks=20, last=5, seeds=(0,)),
    ),
}
