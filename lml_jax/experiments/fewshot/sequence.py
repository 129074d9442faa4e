"""Hundreds of classes learned one after another, one image at a time: Omniglot's sequence."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from lml_jax import plots
from lml_jax.experiments.fewshot.embedding import embed
from lml_jax.experiments.fewshot.run import FEWSHOT, Built, Trained
from lml_jax.experiments.fewshot.settings import FewShot
from lml_jax.experiments.record import Record
from lml_jax.experiments.runner import Experiment, Place
from lml_jax.heads import Head, Statistics, empty, gaussian, lda, nearest_mean, ridge, statistics
from lml_jax.heads.head import FitFn, PredictFn
from lml_jax.types import Dataset, Params

Heads = dict[str, tuple[Head, Params]]

LENGTHS = (10, 50, 100, 200, 300, 400, 600)
SHOTS = 15  # training images of each class; the other five are held out
STORED = (1, 2, 5, 10, 15)  # images of each class that a bank stores
# Held-out accuracy after so many classes: tables and figures of these papers and their code.
PUBLISHED = {
    "OML (official code, 2019)": {10: 0.91, 50: 0.82, 100: 0.76, 200: 0.69, 600: 0.55},
    "ANML (official code, 2020)": {10: 0.84, 50: 0.84, 100: 0.81, 200: 0.77, 600: 0.64},
    "ProtoNet in GeMCL, 84x84 (2021)": {600: 0.837},
    "GeMCL, 84x84 (2021)": {600: 0.869},
}


def sequence(*, draws: int = 20) -> Experiment[FewShot, Built, Trained]:
    """Few-shot training of an embedding, then sequences of 600 unseen classes.

    The settings name `gemcl`, whose prior the Gaussian heads use. `draws` are of the classes, their
    order, and which images are held out.
    """
    return FEWSHOT._replace(
        test=partial(score_sequence, draws=draws), table=table, figures=draw_figures
    )


def score_sequence(built: Built, trained: Trained, place: Place, *, draws: int) -> Record:
    """Accuracies of every head, over random draws of 600 classes and on the first 600."""
    data, params = built.tasks.test_set, trained.params
    features = embed(built.net, params["net"], data)
    heads = heads_of(params["head"])
    result = {}
    for which in ("random", "first"):
        bar = tqdm(range(draws), desc=f"{which} classes", unit="draw", disable=place.hidden)
        rows = [one_draw(features, heads, draw, random=which == "random") for draw in bar]
        result[which] = {
            head: {key: [row[head][key] for row in rows] for key in rows[0][head]} for head in heads
        }
    return {
        "steps": trained.steps,
        "lengths": LENGTHS,
        "draws": draws,
        "accuracy": result,
        "recall": recall(features, data.x[0].nbytes, heads, draws),
    }


def heads_of(trained: Params) -> Heads:
    """name -> (head, parameters); the Gaussians take the prior that was meta-trained."""
    own: dict[str, Head] = {"nearest mean": nearest_mean(), "LDA": lda(), "ridge": ridge()}
    gaussians = {"Gaussian, MAP": "map", "Gaussian, Bayes": "bayes"}
    return {name: (head, head.params()) for name, head in own.items()} | {
        name: (gaussian(predictive=predictive), trained) for name, predictive in gaussians.items()
    }


def one_draw(data: Dataset, heads: Heads, seed: int, *, random: bool) -> dict[str, dict[str, Any]]:
    """One sequence: accuracies of every head after each of `LENGTHS`.

    "train" is on the images learned, "test" on those held out. "oracle" learns everything at once,
    in a shuffled order. "same" is the share of predictions that another order of the classes
    leaves as they are.
    """
    rng, most = np.random.default_rng(seed), max(LENGTHS)
    train, test = _divided(data, rng, random=random)
    result: dict[str, dict[str, Any]] = {
        head: {"train": [], "test": [], "oracle": [], "same": 0.0} for head in heads
    }
    stats, before = nothing(most, data), 0
    for n in LENGTHS:
        stats = learn(stats, train[before:n], jnp.arange(before, n))
        before = n
        shuffled = rng.permutation(n * SHOTS)
        at_once = learn_at_once(
            nothing(most, data),
            train[:n].reshape(n * SHOTS, -1)[shuffled],
            jnp.repeat(jnp.arange(n), SHOTS)[shuffled],
        )
        for name, (head, params) in heads.items():
            scores = partial(accuracy, head, params)
            result[name]["train"].append(scores(stats, train[:n]))
            result[name]["test"].append(scores(stats, test[:n]))
            result[name]["oracle"].append(scores(at_once, test[:n]))
    order = rng.permutation(most)
    other = learn(nothing(most, data), train[order], jnp.asarray(order))
    for name, (head, params) in heads.items():
        first, second = (predictions(head, params, s, test) for s in (stats, other))
        result[name]["same"] = float((first == second).mean())
    return result


def _divided(data: Dataset, rng: np.random.Generator, *, random: bool) -> tuple[Array, Array]:
    """Features of training and held-out images of random classes, or of the first, [n, k, d]."""
    most = max(LENGTHS)
    chosen = rng.permutation(data.classes)[:most] if random else np.arange(most)
    rows = np.stack([rng.permutation(data.rows_of(int(c))) for c in chosen])
    return data.x[rows[:, :SHOTS]], data.x[rows[:, SHOTS:]]


def recall(data: Dataset, image_bytes: int, heads: Heads, draws: int) -> dict[str, Any]:
    """Held-out accuracy over 600 classes from a bank of so many images of each, by bytes stored.

    "samples" embeds the images when it recalls; "statistics" stores what all 15 images gave: a
    count and a mean for the nearest mean, also a spread for a Gaussian, and one scatter matrix for
    LDA and ridge regression. The rounding errors that the sums carry are not counted.
    """
    n, d = max(LENGTHS), data.x.shape[-1]
    samples: dict[str, list[list[float]]] = {head: [] for head in heads}
    for seed in range(draws):
        train, test = _divided(data, np.random.default_rng(seed), random=True)
        kept = [learn(nothing(n, data), train[:, :k], jnp.arange(n)) for k in STORED]
        for name, (head, params) in heads.items():
            samples[name].append([accuracy(head, params, s, test) for s in kept])
    means = {head: np.mean(rows, axis=0).tolist() for head, rows in samples.items()}
    sizes = {name: head.init(n, d).moments for name, (head, _) in heads.items()}
    floats = {name: sum(leaf.size for leaf in jax.tree.leaves(m)) for name, m in sizes.items()}
    return {
        "stored": STORED,
        "bytes": [n * k * image_bytes for k in STORED],
        "samples": means,
        "statistics": {h: {"bytes": 4 * floats[h], "accuracy": means[h][-1]} for h in heads},
    }


def nothing(classes: int, data: Dataset) -> Statistics:
    """Statistics of no image, from which every head can be fitted."""
    return empty(classes, data.x.shape[-1], spread=True, scatter=True)


@jax.jit
def learn(stats: Statistics, x: Array, y: Array) -> Statistics:
    """`stats` after features x [n, k, d] of classes y [n], one after another."""

    def one(so_far: Statistics, example: tuple[Array, Array]) -> tuple[Statistics, None]:
        z, label = example
        return statistics.learn(so_far, z[None], label[None]), None

    flat = (x.reshape(-1, x.shape[-1]), jnp.repeat(y, x.shape[1]))
    return jax.lax.scan(one, stats, flat)[0]


learn_at_once = jax.jit(statistics.learn)


def predictions(head: Head, params: Params, stats: Statistics, x: Array) -> Array:
    """Classes of the features x [n, k, d], int [n, k]; a class at a time, to bound the memory."""
    return _predictions(head.fit, head.predict, params, stats, x)


@partial(jax.jit, static_argnums=(0, 1))
def _predictions(
    fit: FitFn, predict: PredictFn, params: Params, stats: Statistics, x: Array
) -> Array:
    fitted = fit(params, stats)
    return jax.lax.map(lambda z: predict(fitted, z).argmax(1), x, batch_size=10)


def accuracy(head: Head, params: Params, stats: Statistics, x: Array) -> float:
    """Share of the features x [n, k, d], of classes 0..n-1, that are recognised among all seen."""
    found = predictions(head, params, stats, x)
    return float((found == jnp.arange(x.shape[0])[:, None]).mean())


def draw_figures(record: Record, folder: Path) -> None:
    """Accuracy over the number of classes, and by bytes stored."""
    random = record["accuracy"]["random"]
    measured = {head: np.array(of["test"]) for head, of in random.items()}
    figure = plots.accuracy_over_classes(LENGTHS, measured, PUBLISHED)
    plots.save(figure, folder / "sequence.png")
    plots.save(plots.accuracy_by_bytes(record["recall"]), folder / "recall.png")


def table(record: Record) -> str:
    """Accuracies of every head after each number of classes."""
    lines = [f"{record['draws']} draws, held-out accuracy in percent (± sd over draws)"]
    for which, of in record["accuracy"].items():
        lines.append(f"\n{which} 600 classes" + "".join(f"{n:>14d}" for n in LENGTHS))
        for head, got in of.items():
            test, train, oracle = (100 * np.array(got[k]) for k in ("test", "train", "oracle"))
            cells = zip(test.mean(0), test.std(0, ddof=1), strict=True)
            lines.append(f"{head:18s}" + "".join(f"{m:9.2f} ±{s:4.2f}" for m, s in cells))
            gap = (oracle.mean(0) - test.mean(0)) / oracle.mean(0)
            lines.append("  training images " + "".join(f"{m:14.2f}" for m in train.mean(0)))
            lines.append("  gap to oracle   " + "".join(f"{100 * g:14.3f}" for g in gap))
            lines.append(f"  same predictions in another order: {100 * np.mean(got['same']):.3f}")
    stored = record["recall"]
    counts = list(stored["stored"])
    lines.append(f"\nrandom 600 classes, from stored images per class {counts}")
    for head, got in stored["samples"].items():
        lines.append(f"{head:18s}" + "".join(f"{100 * value:14.2f}" for value in got))
    return "\n".join(lines)
