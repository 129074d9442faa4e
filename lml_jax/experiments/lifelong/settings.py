"""Settings of lifelong runs, and their resolution against the data and a learner."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jax import Array

from lml_jax import inner
from lml_jax.checks import known
from lml_jax.execution import Execution, execution
from lml_jax.experiments.choices import one_of
from lml_jax.experiments.datasets import DataEntry, data_entry, names_for
from lml_jax.experiments.fewshot.learners import embeddings
from lml_jax.experiments.networks import NetworkEntry, networks
from lml_jax.experiments.record import Record
from lml_jax.generative.gan.retention import RETENTIONS
from lml_jax.settings import check_literals, check_numbers

Reduction = Literal["sum", "mean", "normalised"]
Option = int | float | str | bool
_SIZED_BY = 1000  # examples that give the size of the inputs
# Updates per task, by budget: of networks of images, and of heads on features.
STEPS = {"quick": (200, 100), "full": (1000, 500)}
# A linear head on features of squared norm 1 takes large steps; networks of images do not.
RATES = {"features": (5.0, 1e-2), "parameters": (0.1, 1e-3), "random": (0.1, 1e-3)}

# What a learner may have a default of its own for.
DEFAULTED = (
    "steps", "inner_rate", "outer_rate", "retention_weight", "reduction", "past_batch",
)  # fmt: skip


@dataclass(frozen=True)
class Lifelong:
    """Settings of lifelong runs. None takes the default of the data or of each learner."""

    # Of the stream; or a folder of class folders, a .npz or .csv file, X.npy,Y.npy or tfds:NAME.
    data: Annotated[str, one_of(lambda: names_for("streams"))] = "glyphs"
    scenario: Literal["class", "domain", "task"] = "class"  # class-, domain- or task-incremental
    tasks: int | None = None  # in the stream
    classes_per_task: int | None = None  # in a domain-incremental stream, of every task
    train_per_class: int | None = None  # training examples per class
    test_per_class: int = 20  # test examples per class, where examples are drawn here
    # Classes with too few examples: an error, or what they have, filled up with weight 0.
    small: Literal["refuse", "pad"] = "refuse"
    jitter: bool = False  # an affine map of each training image, new at every draw
    budget: Literal["quick", "full"] = "quick"  # updates per task: 200 or 1,000, half on features
    steps: int | None = None  # updates per task, in place of the budget's
    shots: int = 5  # support examples per class in an episode
    queries: int = 5  # query examples per class in an episode
    meta_batch: int = 4  # episodes per update
    net: Annotated[str, one_of(networks)] | None = None  # of the learners
    width: int = 256  # of each hidden layer of the mlp
    inner_steps: int = 1  # of the inner loop
    inner_rate: float | None = None  # step size of the inner loop; by default by size of the inputs
    outer_rate: float | None = None  # step size of the outer loop
    fresh_optimizer: bool = False  # re-initialise the optimiser at the end of each task
    # What is meta-trained: a frozen embedding, on which all learners train a head; or the initial
    # parameters of each learner.
    start: Literal["features", "parameters"] | None = None
    from_scratch: bool = False  # start from random parameters, without meta-training
    # Classes to meta-train on; None: those that the data keeps apart from the stream, if it does;
    # data of your own does not, and then nothing is meta-trained.
    start_data: Annotated[str, one_of(lambda: names_for("few-shot"))] | None = None
    start_net: Annotated[str, one_of(networks)] = "convnet"  # of a frozen embedding
    start_steps: int = 500  # updates of the meta-training on background classes
    start_ways: int = 30  # classes per episode of the meta-training of an embedding
    start_seed: int = 0  # of the meta-training, the same start for all seeds
    decay: float | None = 0.9  # lambda of the weights of past tasks, in (0, 1]; None: no past tasks
    retention_weight: float | None = None  # of the retention loss
    reduction: Reduction | None = None  # over past tasks
    every_task: bool = False  # use every past task at each update, instead of a random one
    past_batch: int | None = None  # examples of past tasks per update
    capacity: int = 50  # examples stored per task, of lifelong-maml and the baselines
    few_shot: Annotated[str, one_of(embeddings)] = "protonet"  # of the memory learner
    per_class: int = 15  # examples stored per class, of the memory learner and of a GAN with a bank
    memory_shots: int = 5  # stored examples per class in a support set
    recall_by: Literal["samples", "statistics"] = "samples"  # of the memory learner
    retention: Annotated[str, one_of(RETENTIONS)] = "align"  # retention loss of a generator
    gan_loss: Literal["relativistic", "non_saturating", "saturating"] = (
        "relativistic"  # loss of a GAN
    )
    penalty: float = 1.0  # weight of the gradient penalties of a GAN
    ema: float = 0.998  # of the weights of a GAN's generator
    noise: int = 32  # length of a generator's z
    code: int = 16  # length of VAML's code of a class
    reconstruction_weight: float = 1.0  # of VAML's pixels
    generator_width: int = 256  # of each hidden layer of a generator's networks
    generator_rate: float = 1e-3  # falls along a cosine on each task
    generated: int = 32  # generated examples that join a task's training set
    test_generated: int = 32  # generated examples that join the support set of a test task
    temperature: float = 2.0  # of the old classifier's labels of generated examples
    measures: Literal["diversity", "all"] = "diversity"  # of a generator, after each task
    samples: int = 60  # generated examples per class for the measures
    collapse: float = 0.5  # warn below this diversity
    options: tuple[str, ...] = ()  # of single learners, as LEARNER.OPTION=VALUE
    data_dir: str | None = None  # folder of prepared data, for data that is read from one


class Plan(NamedTuple):
    """Settings with the entries that they name, and what stood for None.

    `steps`, the rates, `retention_weight`, `reduction`, `past_batch` and `options` are of one
    learner. `span` is the range of the examples.
    """

    settings: Lifelong
    data: DataEntry
    net: NetworkEntry
    how: Execution
    start: Literal["features", "parameters", "random"]
    tasks: int
    classes: int  # per task
    train_per_class: int | None  # None: all that there are
    steps: int  # per task
    inner_rate: float
    outer_rate: float
    retention_weight: float = 1.0
    reduction: Reduction = "mean"
    past_batch: int = 25
    options: Mapping[str, Option] = {}
    span: tuple[float, float] = (0.0, 1.0)

    @property
    def config(self) -> Record:
        """The settings of the record, without None where a default stood for it."""
        own = {name: getattr(self, name) for name in self._fields[4:-1]}
        own["classes_per_task"] = own.pop("classes")
        return {**asdict(self.settings), **own, "options": dict(self.options)}


def resolve(settings: Lifelong) -> Plan:
    """The plan that all learners of a run share.

    Raises:
        ValueError: naming a setting that cannot be, and what was expected.
    """
    s = settings
    data = data_entry(s.data, data_dir=s.data_dir, command="streams")
    known(s.retention, RETENTIONS, what="retention loss of a generator")
    check_literals(s)
    background = data.background if s.start_data is None else start_entry(s).background
    start = _start(s, background is not None)
    name = s.net or ("linear" if start == "features" else "mlp")
    net = networks[known(name, networks, what="network")]
    known(s.start_net, networks, what="network of the start")
    known(s.few_shot, embeddings(), what="few-shot learner with an embedding")
    least = dict.fromkeys(
        ("steps", "shots", "queries", "meta_batch", "width", "start_steps", "start_ways",
         "past_batch", "capacity", "per_class", "memory_shots", "noise", "code", "samples",
         "test_per_class", "inner_steps", "generator_width"), 1,
    )  # fmt: skip
    zero = ("retention_weight", "generated", "test_generated", "penalty", "start_seed", "collapse")
    above = ("inner_rate", "outer_rate", "generator_rate", "temperature", "reconstruction_weight")
    check_numbers(s, least=least | dict.fromkeys(zero, 0), above=above)
    domain, steps = s.scenario == "domain", s.steps or STEPS[s.budget][start == "features"]
    kept = data.train_per_class if s.train_per_class is None else s.train_per_class
    return Plan(
        s,
        data,
        net,
        execution(net.kind, steps=steps, inner_steps=s.inner_steps),
        start,
        data.tasks_in_stream if s.tasks is None else s.tasks,
        (10 if domain else data.classes_per_task)
        if s.classes_per_task is None
        else s.classes_per_task,
        kept,
        steps,
        *(RATES[start] if s.inner_rate is None else (s.inner_rate, RATES[start][1])),
    )


def for_inputs(plan: Plan, x: Array | np.ndarray) -> Plan:
    """The plan with an inner rate that is stable for examples like x, unless one was given.

    Convolutions here are followed by a normalisation, so that the size of an image changes nothing.
    """
    if plan.settings.inner_rate is not None or plan.start == "features" or plan.net.kind != "dense":
        return plan
    some = np.asarray(x[:: max(1, len(x) // _SIZED_BY)])
    return plan._replace(inner_rate=inner.step_size(some, base=plan.inner_rate))


def start_entry(s: Lifelong) -> DataEntry:
    """The entry whose classes are meta-trained on, where `start_data` names one."""
    assert s.start_data is not None
    return data_entry(s.start_data, data_dir=None, command="few-shot")


def _start(s: Lifelong, background: bool) -> Literal["features", "parameters", "random"]:
    """What the learners start from.

    Raises:
        ValueError: for features of images that the stream changes as they are drawn.
    """
    if s.from_scratch or not background:
        return "random"
    changed = s.scenario == "domain" or s.jitter
    if changed and s.start == "features":
        raise ValueError(
            "start must be parameters where the stream changes its images (a domain-incremental "
            "scenario, or jitter), got 'features'"
        )
    return "parameters" if changed else s.start or "features"


def two_of(reduction: Reduction) -> Literal["sum", "mean"]:
    """The reduction of a learner that has no normalised weights.

    Raises:
        ValueError: for "normalised".
    """
    if reduction == "normalised":
        raise ValueError("reduction must be sum or mean for this learner, got 'normalised'")
    return reduction


def for_learner(
    plan: Plan, name: str, *, defaults: Mapping[str, Any], options: Mapping[str, Option]
) -> Plan:
    """The plan of one learner: what was given, else its `defaults`, else those of all.

    A default may be a function of the plan.
    """
    changes = {}
    for key in DEFAULTED:
        given = getattr(plan.settings, key)
        if given is None and key in defaults:
            given = defaults[key](plan) if callable(defaults[key]) else defaults[key]
        if given is not None:
            changes[key] = given
    return plan._replace(**changes, options=_own_options(plan.settings.options, name, options))


def check_options(given: Sequence[str], learners: Mapping[str, Mapping[str, Option]]) -> None:
    """Raise ValueError for an option of no learner in the run; `learners`: name -> its options."""
    for text in given:
        where, dot, rest = text.partition(".")
        option, equals, _ = rest.partition("=")
        if not dot or not equals:
            raise ValueError(f"expected options as LEARNER.OPTION=VALUE, got {text!r}")
        own = learners[known(where, learners, what="learner in options")]
        if not own:
            raise ValueError(f"{where} has no options of its own, got {text!r}")
        known(option, own, what=f"option of {where}")


def _own_options(
    given: Sequence[str], name: str, defaults: Mapping[str, Option]
) -> Mapping[str, Option]:
    """The options of a learner; each is read as the type of its default."""
    values = dict(defaults)
    for text in given:
        where, _, rest = text.partition(".")
        option, _, value = rest.partition("=")
        if where == name and option in defaults:
            kind = type(defaults[option])
            try:
                values[option] = (
                    {"true": True, "false": False}[value] if kind is bool else kind(value)
                )
            except (ValueError, KeyError) as error:
                raise ValueError(f"expected {kind.__name__} for {text!r}") from error
    return values
