"""A few-shot learner with and without MetaGAN: the same start and episodes, paired differences."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from lml_jax import losses, metrics, nets, plots, train
from lml_jax.execution import Execution
from lml_jax.experiments.datasets import made_of
from lml_jax.experiments.fewshot.build import (
    Tasks,
    execution_of,
    learner_of,
    network_of,
    outer_rule_of,
    tasks_of,
)
from lml_jax.experiments.fewshot.report import identity_of
from lml_jax.experiments.fewshot.run import keys_of, scores_of
from lml_jax.experiments.fewshot.settings import FewShot, Plan, resolve
from lml_jax.experiments.progress import Trained, train_with_bar
from lml_jax.experiments.record import Record, resumable
from lml_jax.experiments.runner import Experiment, Place
from lml_jax.generative.metagan.metagan import metagan
from lml_jax.metrics import diversity
from lml_jax.pixels import as_float
from lml_jax.settings import check_literals, check_numbers
from lml_jax.types import ExampleLoss, Key, Learner, Params, PyTree, TaskGenerator

WATCHED = ("d_loss", "d_real", "d_fake", "d_accuracy", "g_loss", "diversity")
SHOWN = 4  # test tasks in a grid


@dataclass(frozen=True)
class MetaGan:
    """Settings of a comparison; `base` is the learner, trained the same way in both arms."""

    base: FewShot
    role: Literal["negative_class", "augment"] = "negative_class"  # of generated examples
    generated: int = 5  # generated examples in a support set
    generated_weight: float = 0.25
    generated_from: int = 0  # updates before they count
    loss: Literal["saturating", "non_saturating", "relativistic"] = "non_saturating"
    penalty: float = 0.0  # weight of R1 + R2
    logit_offset: Literal["zero", "learned"] = "zero"
    encoder: tuple[int, ...] = (256,)  # hidden widths of the set encoder, a perceptron
    code: int = 64  # its output
    generator: tuple[int, ...] = (256, 256)  # hidden widths
    noise: int = 32  # length of z
    rate: float = 1e-3  # of encoder and generator
    ema: float = 0.995
    collapse: float = 0.5  # warn below this diversity


class Pair(NamedTuple):
    """What a comparison is made of; `learner` and `generator` are those of MetaGAN."""

    settings: MetaGan
    plan: Plan
    tasks: Tasks
    learner: Learner
    generator: TaskGenerator
    how: Execution


class BothTrained(NamedTuple):
    """Both arms after training."""

    alone: Trained
    metagan: Trained


def build(settings: MetaGan) -> Pair:
    """Everything a run is made of.

    Raises:
        ValueError: for settings that cannot be.
    """
    check_literals(settings)
    check_numbers(settings, least={"generated": 1, "code": 1, "noise": 1}, above=("rate",))
    plan = resolve(settings.base)
    tasks = tasks_of(plan)
    shape = tasks.sample(tasks.train_set, jax.random.key(0)).support.x.shape[2:]
    s = plan.settings
    learner, generator = with_generator(
        settings, plan, shape, steps=s.inner_steps, ways=s.train_ways
    )
    return Pair(settings, plan, tasks, learner, generator, execution_of(plan))


def with_generator(
    s: MetaGan, plan: Plan, shape: tuple[int, ...], *, steps: int, ways: int
) -> tuple[Learner, TaskGenerator]:
    """The learner of the plan under MetaGAN, with so many inner steps and classes."""
    net = network_of(plan)

    def with_loss(loss: ExampleLoss) -> Learner:
        return learner_of(plan, net, steps=steps, ways=ways, loss=loss)

    embedding = plan.entry.embedding
    return metagan(
        learner_of(plan, net, steps=steps, ways=ways) if embedding else with_loss,
        nets.mlp(s.encoder, s.code),
        nets.generator(s.generator, shape),
        by_part({"learner": outer_rule_of(plan), "offset": optax.adam(s.rate)}),
        # Half the usual momentum: D a few steps ago says little about D now.
        optax.adam(s.rate, b1=0.5),
        classes=ways,
        role=s.role,
        generated=s.generated,
        generated_weight=s.generated_weight,
        generated_from=s.generated_from,
        noise=s.noise,
        loss=losses.GAN_LOSSES[s.loss](),
        penalty=s.penalty,
        logit_offset=s.logit_offset,
        ema=s.ema,
    )


def by_part(rules: dict[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """A rule for each entry of a dict of parameters, which sees its own entry alone."""

    def init(params: Params) -> Any:
        return {name: tx.init(params[name]) for name, tx in rules.items()}

    def update(
        updates: Params, state: PyTree, params: Params | None = None
    ) -> tuple[Params, PyTree]:
        own = dict.fromkeys(rules) if params is None else params
        both = {
            name: tx.update(updates[name], state[name], own[name]) for name, tx in rules.items()
        }
        moved, after = ({name: pair[i] for name, pair in both.items()} for i in (0, 1))
        return moved, after

    return optax.GradientTransformation(init, update)


def train_both(pair: Pair, place: Place) -> tuple[BothTrained, dict[str, float]]:
    """Both arms, from the same parameters of the learner, on the same training episodes."""
    plan, tasks, how = pair.plan, pair.tasks, pair.how
    key_init, key_train, _ = keys_of(plan.settings.seed)
    state = pair.generator.init(key_init, tasks.sample(tasks.train_set, key_train).support.x[0])
    base = plan.settings
    learner = learner_of(plan, network_of(plan), steps=base.inner_steps, ways=base.train_ways)
    tx = outer_rule_of(plan)
    own = partial(
        train_with_bar,
        sample=tasks.sample,
        data=tasks.train_set,
        key=key_train,
        steps=base.steps,
        how=how,
        place=place,
    )
    with place.keeping(resumable(config_of(pair)), part="alone") as keeper:
        alone = own(
            train.make_train_step(train.episode_loss(learner), tx),
            state=train.init_state(state.params["d"]["learner"], tx),
            about=f"train {base.learner} alone",
            keeper=keeper,
        )
    with place.keeping(resumable(config_of(pair)), part="metagan") as keeper:
        both = own(
            pair.generator.step,
            state=state,
            about=f"train {base.learner} with MetaGAN",
            keeper=keeper,
            watch=WATCHED,
        )
    return BothTrained(alone, both), {"base": alone.seconds, "metagan": both.seconds}


def score_pair(pair: Pair, trained: BothTrained, place: Place) -> Record:
    """Accuracies of both arms on the same test episodes, and a grid of samples.

    The measures of the generator are means over the last tenth of its training. `difference` is
    MetaGAN minus the base, in accuracy.
    """
    s, plan, tasks, ways = pair.settings, pair.plan, pair.tasks, pair.plan.settings.ways
    key, state = keys_of(plan.settings.seed)[2], trained.metagan.state
    shape = tasks.test_set.x.shape[1:]
    # One inner step at a time, so that the score after each is seen.
    alone = learner_of(plan, network_of(plan), steps=1, ways=ways)
    both = with_generator(s, plan, shape, steps=1, ways=ways)[0]
    scores = [
        scores_of(plan, learner, params, tasks, key, hidden=place.hidden)
        for learner, params in ((alone, trained.alone.state.params), (both, state.averaged))
    ]
    grid = grid_of(pair, state, key)
    plots.save(grid, place.folder / "samples.png")
    return {
        **compared(plan, *scores),
        **last_tenth(trained.metagan.watched, s),
        "steps": int(state.step),
        "data_made": made_of(plan.data, train=tasks.train_set, test=tasks.test_set),
    }


def compared(plan: Plan, alone: np.ndarray, both: np.ndarray) -> Record:
    """Accuracies of scores [episodes, S + 1], and their differences, paired by episode."""

    def of(scores: np.ndarray) -> list[tuple[float, float]]:
        return [metrics.mean_ci(column) for column in scores.T]

    plain, made, paired = of(alone), of(both), of(both - alone)
    r = plan.settings.report_step
    return {
        **identity_of(plan, len(alone)),
        "batch_statistics": plan.settings.batch_statistics,
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


def last_tenth(history: dict[str, np.ndarray], s: MetaGan) -> Record:
    """Metrics of D and G over the last tenth of the training, and a warning of a collapse."""
    found: Record = {}
    for name in WATCHED:
        values = history[name]
        last = values[-max(1, len(values) // 10) :]
        found[name] = float(np.mean(last[np.isfinite(last)])) if np.isfinite(last).any() else np.nan
    where = f" (MetaGAN on {s.base.learner}, seed {s.base.seed})"
    found["warning"] = diversity.warn_if_collapsed(
        found["diversity"], threshold=s.collapse, where=where
    )
    return found


def grid_of(pair: Pair, state: Any, key: Key) -> Figure:
    """Test tasks, a row of their support sets above a row of what is generated from each."""
    tasks = pair.tasks.test_sample(pair.tasks.test_set, key)
    rows, labels = [], []
    for i in range(min(SHOWN, tasks.support.x.shape[0])):
        support = jax.tree.map(lambda leaf, i=i: leaf[i], tasks.support)
        code = pair.generator.encode(state, support, key)
        made = pair.generator.sample(state, code, key, n=support.x.shape[0])
        rows += [as_float(support.x), made.x]
        labels += [f"task {i + 1}, given", "generated"]
    base = pair.plan.settings
    title = f"MetaGAN on {base.learner}, {pair.settings.role}, seed {base.seed}"
    return plots.sample_grid(np.asarray(jnp.stack(rows)), labels, title=title)


def table(record: Record) -> str:
    """The scores of a pair, in percent, and the state of the game."""
    lines = [
        f"{record['learner']}: {record['ways']}-way {record['shots']}-shot, "
        f"{record['episodes']} episodes"
    ]
    for title, value, half in (
        ("alone", "accuracy_base", "ci95_base"),
        ("with MetaGAN", "accuracy", "ci95"),
        ("difference", "difference", "ci95_difference"),
    ):
        lines.append(f"  {title:14s}{100 * record[value]:7.2f} ± {100 * record[half]:.2f} %")
    lines.append("  " + ", ".join(f"{name} {record[name]:.2f}" for name in WATCHED))
    return "\n".join([*lines, *([f"  {record['warning']}"] if record["warning"] else [])])


def config_of(pair: Pair) -> Record:
    """The settings of the record, those of the base resolved."""
    return {**asdict(pair.settings), "base": asdict(pair.plan.settings)}


METAGAN: Experiment[MetaGan, Pair, BothTrained] = Experiment(
    build,
    train_both,
    score_pair,
    table,
    config_of,
    seeded=lambda settings, seed: replace(settings, base=replace(settings.base, seed=seed)),
)
