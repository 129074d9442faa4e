"""Learners compared on MNIST streams that are seen once, without task boundaries."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from lml_jax import memory, metrics, nets
from lml_jax.data.domains import permuted, rotated
from lml_jax.data.mnist import mnist
from lml_jax.data.stream import Stream, Transform
from lml_jax.data.streams import class_incremental, in_time, of_tasks
from lml_jax.experiments.intervals import table
from lml_jax.experiments.once import run_each
from lml_jax.experiments.recipe import Recipe
from lml_jax.experiments.record import Record, fingerprint, tree_bytes, versions
from lml_jax.experiments.runner import Place, Report
from lml_jax.learners.maml import maml
from lml_jax.lifelong.agem import agem
from lml_jax.lifelong.derpp import derpp
from lml_jax.lifelong.er import er
from lml_jax.lifelong.er_ace import er_ace
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.la_maml import la_maml
from lml_jax.lifelong.label_space import LabelSpace, label_space_of
from lml_jax.lifelong.one_pass import Rows, one_pass
from lml_jax.pixels import as_float
from lml_jax.settings import check_literals, check_numbers, check_seeds
from lml_jax.types import Dataset, LifelongLearner, Net


@dataclass(frozen=True)
class Online:
    """Settings of a stream that is seen once."""

    scenario: Literal["split", "rotations", "permutations"] = "split"  # of MNIST
    tasks: int = 5
    train_per_class: int | None = None  # training examples per class in each task; None: all
    test_per_class: int | None = None  # test examples per class in each task; None: all
    memories: int = 1000  # examples that a learner may store
    batch: int = 10  # examples in each batch
    hidden: tuple[int, ...] = (400, 400)  # widths of the hidden layers of the mlp
    standardised: bool = False  # images minus MNIST's mean .1307, divided by its deviation .3081
    rows: Rows = "ends"  # which scores are computed
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # one run of each learner for each
    data_dir: str | None = None  # folder of prepared data


Make = Callable[[Net, LabelSpace, Online], LifelongLearner]
FIGURES = {"acc": "accuracy", "bwt_T": "backward tr.", "learning_accuracy": "when learned"}


def compare(arms: Mapping[str, Make]) -> Callable[[Online], Report]:
    """Settings -> (folder, resume=False) -> report: every learner on the streams of all seeds."""

    def report_of(settings: Online) -> Report:
        def run(out: Path, *, resume: bool = False) -> str:
            result = run_online_arms(arms, settings, out, resume=resume)
            return table(result["runs"], FIGURES)

        return run

    return report_of


def run_online_arms(
    arms: Mapping[str, Make], settings: Online, out: Path, *, resume: bool = False
) -> Record:
    """Run every learner with every seed into `out`; a run that was finished there is kept.

    Raises:
        ValueError: for settings that cannot be, or no or repeated seeds.
    """
    check_literals(settings)
    least = dict.fromkeys(("tasks", "train_per_class", "test_per_class", "memories", "batch"), 1)
    check_numbers(settings, least=least, above=())
    check_seeds(settings.seeds)
    train, test = (mnist(part, data_dir=settings.data_dir) for part in ("train", "test"))
    streams = {seed: stream_of(settings, train, test, seed) for seed in settings.seeds}
    space = label_space_of(next(iter(streams.values())))
    # All outputs take part from the start, as in the sources.
    space = space._replace(initial=jnp.ones(space.classes, bool))
    net = nets.mlp(settings.hidden, space.classes)
    net = _standardised(net) if settings.standardised else net
    # One object for all seeds, so that each is compiled once.
    learners = {name: make(net, space, settings) for name, make in arms.items()}
    config = {name: value for name, value in asdict(settings).items() if name != "seeds"}
    about = {"data_made": {"train": fingerprint(train), "test": fingerprint(test)}}

    def one(name: str, seed: int, place: Place) -> Record:
        stream = streams[seed]
        done = one_pass(learners[name], stream, jax.random.key(seed), rows=settings.rows)
        state = done.state
        sizes = {"params": state.train.params, "bank": state.memory, "own": state.own}
        return {
            "R": done.R,
            **metrics.summary(done.R),
            "seconds": done.seconds,
            "bytes": {part: tree_bytes(tree) for part, tree in sizes.items()},
            "config": config,
            "versions": versions(),
            **about,
        }

    return run_each(arms, settings.seeds, one, out, config=config, resume=resume)


def _standardised(net: Net) -> Net:
    return Net(net.init, lambda params, x: net.apply(params, (as_float(x) - 0.1307) / 0.3081))


def stream_of(settings: Online, train: Dataset, test: Dataset, seed: int) -> Stream:
    """The stream of one seed. Digits are in their order where each task has its own."""
    s = settings
    if s.scenario == "split":
        per_task = train.classes // s.tasks
        stream = class_incremental(
            train,
            tasks=s.tasks,
            classes_per_task=per_task,
            order=range(per_task * s.tasks),
            seed=seed,
            test=test,
            train_per_class=s.train_per_class,
            test_per_class=s.test_per_class,
        )
    else:
        turn: Transform = rotated(180.0 / s.tasks) if s.scenario == "rotations" else permuted(0)
        stream = of_tasks(
            train,
            [range(train.classes)] * s.tasks,
            seed=seed,
            transform=turn,
            test=test,
            # Each task has images of its own.
            train_per_class=None if s.train_per_class is None else s.train_per_class * s.tasks,
            test_per_class=s.test_per_class,
        )
    return in_time(stream, batch_size=s.batch, seed=seed)


def _sgd(make: Callable[..., LifelongLearner], rate: float, **settings: object) -> Make:
    """A learner with a reservoir, trained by SGD."""

    def learner(net: Net, space: LabelSpace, s: Online) -> LifelongLearner:
        few_shot = maml(net, optax.sgd(rate), steps=1)
        bank = memory.reservoir(s.memories)
        return make(few_shot, optax.sgd(rate), space, bank=bank, **settings)

    return learner


def _online(net: Net, space: LabelSpace, s: Online) -> LifelongLearner:
    return finetune(maml(net, optax.sgd(0.1), steps=1), optax.sgd(0.1), space)


def _la_maml(**settings: float | None) -> Make:
    def learner(net: Net, space: LabelSpace, s: Online) -> LifelongLearner:
        return la_maml(net, space, bank=memory.reservoir(s.memories), **settings)  # type: ignore[arg-type]

    return learner


# The rates are those of Avalanche (ER) and Mammoth (DER++, A-GEM) for Split MNIST.
SPLIT: dict[str, Make] = {
    "er": _sgd(er, 0.1),
    "er-ace": _sgd(er_ace, 0.1),
    "derpp": _sgd(derpp, 0.03),
    "agem": _sgd(agem, 0.1),
    "online": _online,
}
# As many updates on a batch, with as many stored examples, as La-MAML makes.
DOMAINS: dict[str, Make] = {
    "la-maml": _la_maml(),
    "c-maml": _la_maml(alpha=0.1, alpha_rate=None, rate=0.1),
    "er": _sgd(er, 0.1, updates=5),
    "derpp": _sgd(derpp, 0.1, updates=5),
    "online": _online,
}
SPLIT_MNIST = Online(hidden=(512,), standardised=True)
ROTATIONS = Online("rotations", tasks=20, train_per_class=100, memories=200, hidden=(100, 100))
PERMUTATIONS = replace(ROTATIONS, scenario="permutations")
_QUICK: Mapping[str, Any] = {"seeds": (0,), "test_per_class": 100}

recipes: dict[str, Recipe] = {
    "split-mnist-online": Recipe(
        "Split MNIST, 5 tasks x 2 digits, class-incremental, one pass in batches of 10, 1,000 "
        "memories, standardised images, an MLP of one hidden layer of 512; 5 seeds",
        "Avalanche's online replay .92, CoPE .93",
        SPLIT_MNIST,
        compare(SPLIT),
        replace(SPLIT_MNIST, train_per_class=500, **_QUICK),
    ),
    "mnist-rotations": Recipe(
        "MNIST, 20 rotations x 1,000 images, one pass in batches of 10, 200 memories, an MLP of "
        "100 and 100; retained accuracy (accuracy) and its change (backward tr.); 5 seeds",
        "Gupta et al. 2020: La-MAML 77.4 / -8.6, C-MAML 77.3 / -7.9, MER 77.4 / -5.6, online "
        "53.4 / -5.4",
        ROTATIONS,
        compare(DOMAINS),
        replace(ROTATIONS, tasks=5, **_QUICK),
    ),
    "mnist-permutations": Recipe(
        "the same with 20 permutations of the pixels, the same for all seeds",
        "Gupta et al. 2020: La-MAML 74.3 / -7.6, C-MAML 74.5 / -10.4, MER 73.5 / -10.0, online "
        "55.4 / -13.8",
        PERMUTATIONS,
        compare({**DOMAINS, "c-maml": _la_maml(alpha=0.03, alpha_rate=None, rate=0.1)}),
        replace(PERMUTATIONS, tasks=5, **_QUICK),
    ),
}
