"""A few-shot learner with and without MetaGAN: the same start and episodes, differences paired."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from lml_jax import metrics, nets, plots, train
from lml_jax.checkpoint import keeper
from lml_jax.experiments.fewshot.build import learner_of, network_of, outer_rule_of
from lml_jax.experiments.fewshot.run import scores_of
from lml_jax.experiments.fewshot.settings import METRIC, FewShot, Sampler, checked, tasks_of
from lml_jax.experiments.progress import Trained, train_with_bar
from lml_jax.experiments.record import (
    CHECKPOINTS,
    keeping_last_good,
    open_folder,
    resumable,
    versions,
    write_metrics,
)
from lml_jax.generative.conditioning import as_float
from lml_jax.generative.metagan.metagan import metagan
from lml_jax.metrics import generators as generator_metrics
from lml_jax.types import Generator, Key, Learner, Params

WATCHED = ("d_loss", "d_real", "d_fake", "d_accuracy", "g_loss", "spread")
SHOWN = 4  # test tasks in a grid


@dataclass(frozen=True)
class MetaGan:
    """Settings of a comparison; `base` is the learner, trained the same way in both arms."""

    base: FewShot
    role: str = "negative_class"  # or augment
    weight: float = 0.25  # of generated examples
    start: int = 0  # meta-steps before they count
    samples: int = 5  # of them in a support set
    loss: str = "non_saturating"
    penalty: float = 0.0  # on R1 + R2
    level: str = "fixed"  # or learned
    encoder: tuple[int, ...] = (256,)  # hidden widths of the set encoder, a perceptron
    code: int = 64  # its output
    generator: tuple[int, ...] = (256, 256)  # hidden widths
    noise: int = 32
    rate: float = 1e-3  # of encoder and generator
    ema: float = 0.995
    collapse: float = 0.5  # warn below this spread


def run_pair(
    settings: MetaGan, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Train both arms, test both on the same episodes, and write what was found into `out`.

    Both begin with the same parameters of the learner and see the same training episodes. The
    measures of the generator are means over the last tenth of its training.

    Args:
        settings: what to run.
        out: a folder that is absent or empty; with `resume`, also one of a run that was cut.
        resume: go on from the newest checkpoint of each arm in `out`, bit for bit.
        progress: show a bar.

    Returns:
        The record written; `difference` is MetaGAN minus the base, in accuracy.

    Raises:
        ValueError: for settings that cannot be run, before anything is trained.
        train.DivergedError: if a loss was not finite; the last good parameters are in
            `last_good.npz`.
    """
    s: Any = replace(settings, base=checked(settings.base))
    train_set, test_set, sample, test_sample = tasks_of(s.base)
    learner, generator = sharpened(s, steps=s.base.inner_steps, ways=s.base.train_ways)
    folder = open_folder(out, resume=resume)
    key_init, key_train, key_test = jax.random.split(jax.random.key(s.base.seed), 3)
    state = generator.init(key_init, sample(train_set, key_train).support.x[0])
    common = {"progress": progress, "key": key_train, "sample": sample, "data": train_set}
    base, learner = one_step_each(s)
    tests = {"data": test_set, "sample": test_sample, "key": key_test, "progress": progress}
    kept = [keeper(folder / CHECKPOINTS / arm, config=resumable(s)) for arm in ("alone", "metagan")]
    with keeping_last_good(folder), kept[0] as of_alone, kept[1] as of_sharp:
        alone = trained_alone(s, state.params["d"]["learner"], keeper=of_alone, **common)
        sharp = trained(
            s, generator.step, state, "with MetaGAN", keeper=of_sharp, watch=WATCHED, **common
        )
        state = sharp.state
        scores = compared(
            s.base,
            scores_of(s.base, base, alone.state.params, **tests),
            scores_of(s.base, learner, state.averaged, **tests),
        )
    record = {
        **scores,
        **watched(sharp.watched, s),
        "steps": int(state.step),
        "seconds": {"base": alone.seconds, "metagan": sharp.seconds},
        "config": asdict(s),
        "versions": versions(),
    }
    write_metrics(folder, record)
    plots.save(
        grid_of(s, generator, state, test_set, test_sample, key_test), folder / "samples.png"
    )
    return record


def sharpened(s: Any, *, steps: int, ways: int) -> tuple[Learner, Generator]:
    """The learner of the settings under MetaGAN, with so many inner steps and classes."""
    net = network_of(s.base)

    def descending(loss: Any) -> Learner:
        return learner_of(s.base, net, steps=steps, ways=ways, loss=loss)

    return metagan(
        descending(None) if s.base.learner in METRIC else descending,
        nets.mlp(s.encoder, s.code),
        nets.generator(s.generator, (28, 28)),
        by_part({"learner": outer_rule_of(s.base), "level": optax.adam(s.rate)}),
        # Half the usual momentum: what D looked like some steps ago says little about it now.
        optax.adam(s.rate, b1=0.5),
        classes=ways,
        role=s.role,
        weight=s.weight,
        start=s.start,
        samples=s.samples,
        noise=s.noise,
        loss=s.loss,
        penalty=s.penalty,
        level=s.level,
        ema=s.ema,
    )


def by_part(rules: dict[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """A rule for each entry of a dict of parameters, which sees its own entry alone."""

    def init(params: Params) -> Any:
        return {name: tx.init(params[name]) for name, tx in rules.items()}

    def update(grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        both = {
            name: tx.update(grads[name], state[name], params[name]) for name, tx in rules.items()
        }
        updates, after = ({name: pair[i] for name, pair in both.items()} for i in (0, 1))
        return updates, after

    return optax.GradientTransformation(init, update)


def one_step_each(s: Any) -> tuple[Learner, Learner]:
    """The base and the sharpened learner as they are tested, an inner step at a time."""
    base = learner_of(s.base, network_of(s.base), steps=1, ways=s.base.ways)
    return base, sharpened(s, steps=1, ways=s.base.ways)[0]


def trained_alone(s: Any, params: Params, **common: Any) -> Trained:
    """The base learner, trained from `params`."""
    learner = learner_of(
        s.base, network_of(s.base), steps=s.base.inner_steps, ways=s.base.train_ways
    )
    tx = outer_rule_of(s.base)
    step = train.make_train_step(train.episode_loss(learner), tx)
    return trained(s, step, train.init_state(params, tx), "alone", **common)


def trained(s: Any, step: train.Step, state: Any, about: str, **common: Any) -> Trained:
    """One arm; both draw the same episodes, by the number of the step."""
    return train_with_bar(
        step,
        state=state,
        steps=s.base.steps,
        scan=jax.default_backend() != "cpu",  # convolutions inside a scan crawl there
        chunk=max(1, min(50, s.base.steps // 20)),
        about=f"train {s.base.learner} {about}",
        **common,
    )


def compared(base: Any, alone: np.ndarray, sharp: np.ndarray) -> dict[str, Any]:
    """Accuracies of scores [episodes, S + 1], and their differences, paired by episode."""

    def of(scores: np.ndarray) -> list[tuple[float, float]]:
        return [metrics.mean_ci(column) for column in scores.T]

    plain, made, paired = of(alone), of(sharp), of(sharp - alone)
    r = base.report_step
    return {
        "learner": base.learner,
        "data": base.data,
        "split": base.split if base.data == "omniglot" else None,
        "ways": base.ways,
        "shots": base.test_shots,
        "episodes": len(alone),
        "queries": base.queries,
        "seed": base.seed,
        "batch_statistics": base.batch_statistics,
        "inner_steps_reported": r,
        "accuracy_base": plain[r][0],
        "ci95_base": plain[r][1],
        "accuracy": made[r][0],
        "ci95": made[r][1],
        "difference": paired[r][0],
        "ci95_difference": paired[r][1],
        "difference_per_inner_step": [m for m, _ in paired],
        "ci95_difference_per_inner_step": [half for _, half in paired],
    }


def watched(history: dict[str, np.ndarray], s: Any) -> dict[str, Any]:
    """What D and G did over the last tenth of the training, and a warning of a collapse."""
    found: dict[str, Any] = {}
    for name in WATCHED:
        values = history[name]
        last = values[-max(1, len(values) // 10) :]
        found[name] = float(np.mean(last[np.isfinite(last)])) if np.isfinite(last).any() else np.nan
    where = f" (MetaGAN on {s.base.learner}, seed {s.base.seed})"
    found["warning"] = generator_metrics.warn_if_collapsed(
        found["spread"], threshold=s.collapse, where=where
    )
    return found


def grid_of(
    s: Any, generator: Generator, state: Any, data: Any, sample: Sampler, key: Key
) -> Figure:
    """Test tasks, a row of their support sets above a row of what is generated from each."""
    tasks = sample(data, key)
    rows, labels = [], []
    for i in range(min(SHOWN, tasks.support.x.shape[0])):
        support = jax.tree.map(lambda leaf, i=i: leaf[i], tasks.support)
        code = generator.encode(state, support, key)
        made = generator.sample(state, code, key, n=support.x.shape[0])
        rows += [as_float(support.x), made.x]
        labels += [f"task {i + 1}, given", "generated"]
    title = f"MetaGAN on {s.base.learner}, {s.role}, seed {s.base.seed}"
    return plots.sample_grid(np.asarray(jnp.stack(rows)), labels, title=title)


def recipe(settings: MetaGan, *, seeds: int = 1) -> Callable[..., str]:
    """Seeds 0, 1, ... into a folder each; (folder, resume=False) -> a report."""

    def run(out: Path, *, resume: bool = False) -> str:
        folder = open_folder(out, resume=resume)
        runs = []
        for seed in range(seeds):
            own = replace(settings, base=replace(settings.base, seed=seed))
            runs.append(run_pair(own, folder / f"seed{seed}", resume=resume))
            write_metrics(folder, {"runs": runs})
        return "\n".join(table(run) for run in runs)

    return run


def table(run: dict[str, Any]) -> str:
    """The scores of a pair, in percent, and how the game stood."""
    lines = [
        f"{run['learner']}, seed {run['seed']}: {run['ways']}-way {run['shots']}-shot, "
        f"{run['episodes']} episodes, {run['steps']} steps, "
        + ", ".join(f"{name} {value:.0f} s" for name, value in run["seconds"].items())
    ]
    for title, value, half in (
        ("alone", "accuracy_base", "ci95_base"),
        ("with MetaGAN", "accuracy", "ci95"),
        ("difference", "difference", "ci95_difference"),
    ):
        lines.append(f"  {title:14s}{100 * run[value]:7.2f} ± {100 * run[half]:.2f} %")
    lines.append("  " + ", ".join(f"{name} {run[name]:.2f}" for name in WATCHED))
    return "\n".join([*lines, *([f"  {run['warning']}"] if run["warning"] else [])])
