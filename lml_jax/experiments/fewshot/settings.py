"""Settings of a few-shot run, and their resolution against the learner and the data."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple

from lml_jax.checks import known
from lml_jax.experiments.choices import one_of
from lml_jax.experiments.datasets import DataEntry, data_entry, names_for
from lml_jax.experiments.fewshot.learners import FewShotEntry, few_shot_learners
from lml_jax.experiments.own_data import EpisodeSizes
from lml_jax.settings import check_literals, check_numbers

Split = Literal["maml-random", "vinyals", "background/evaluation"]
Schedule = Literal["constant", "cosine", "halving"]
Statistics = Literal["transductive", "group", "frozen"]


@dataclass(frozen=True)
class FewShot:
    """Settings of a few-shot run. None takes the default of the learner and the data.

    With data of your own, defaults are no larger than the classes and examples that there are.
    """

    learner: Annotated[str, one_of(few_shot_learners)] = "maml"
    # Or data of your own, of which a third of the classes test: a folder of class folders, a .npz
    # or .csv file, X.npy,Y.npy or tfds:NAME.
    data: Annotated[str, one_of(lambda: names_for("few-shot"))] = "glyphs"
    split: Split = "maml-random"  # of Omniglot's characters
    size: int = 28  # pixels a side, of glyphs, Omniglot and folders
    # Classes with too few examples: an error, or what they have, filled up with weight 0.
    small: Literal["refuse", "pad"] = "refuse"
    ways: int | None = None  # classes per test episode; by default 5
    train_ways: int | None = None  # classes per training episode, of learners with an embedding
    shots: int | None = None  # support examples per class at training (points, for sine)
    test_shots: int | None = None  # support examples per class at test; None: as at training
    train_queries: int | None = None  # query examples per class at training
    queries: int | None = None  # query examples per class at test; by default 15
    steps: int = 2000  # updates of the outer loop
    episodes: int = 1000  # test episodes
    meta_batch: int | None = None  # episodes per update
    inner_steps: int | None = None  # at training
    test_inner_steps: int | None = None  # at test
    report_step: int | None = None  # inner steps of the reported score
    inner_rate: float | None = None  # step size of the inner loop
    outer_rate: float | None = None  # step size of the outer loop
    step_size_rate: float | None = None  # outer step size of learned inner step sizes
    clip: float | None = None  # largest norm of the outer gradient
    schedule: Schedule = "constant"  # of the outer rate; halving: every 2,000 updates
    batch_statistics: Statistics | None = None  # of the network's normalisation
    filters: int = 64  # of each convolution
    validate_every: int = 0  # updates between validations, the best of which is tested; 0: none
    validation_classes: int = 20  # training classes held out for them
    validation_episodes: int = 100  # of each
    seed: int = 0
    data_dir: str | None = None  # folder of prepared data, for data that is read from one


@dataclass(frozen=True)
class Resolved:
    """`FewShot` with every default filled in; `clip` None is no clipping."""

    learner: str
    data: str
    split: str
    size: int
    small: Literal["refuse", "pad"]
    ways: int
    train_ways: int
    shots: int
    test_shots: int
    train_queries: int
    queries: int
    steps: int
    episodes: int
    meta_batch: int
    inner_steps: int
    test_inner_steps: int
    report_step: int
    inner_rate: float
    outer_rate: float
    step_size_rate: float
    clip: float | None
    schedule: str
    batch_statistics: str
    filters: int
    validate_every: int
    validation_classes: int
    validation_episodes: int
    seed: int
    data_dir: str | None


class Plan(NamedTuple):
    """Resolved settings with the entries that they name.

    `image` is (H, W) of the images, where it is known to be other than `settings.size` squared.
    """

    settings: Resolved
    entry: FewShotEntry
    data: DataEntry
    image: tuple[int, int] | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images that the network is trained on."""
        return self.image or (self.settings.size, self.settings.size)

    @property
    def regression(self) -> bool:
        """Whether tasks are of regression, made from nothing."""
        return self.data.tasks is not None


def resolve(settings: FewShot, learners: Mapping[str, FewShotEntry] | None = None) -> Plan:
    """A plan from settings, with the user's own `learners` by name.

    Raises:
        ValueError: naming a setting that cannot be, and what was expected.
    """
    entries = {**few_shot_learners, **(learners or {})}
    entry = entries[known(settings.learner, entries, what="learner")]
    data = data_entry(settings.data, data_dir=settings.data_dir, command="few-shot")
    check_literals(settings)
    defaults = entry.defaults if data.tasks is None else entry.regression
    if defaults is None:
        raise ValueError(f"{settings.learner} classifies; expected data other than 'sine'")
    few = 10 if data.tasks else 1
    common = {
        "ways": 5,
        "queries": 15,
        "shots": few,
        "train_queries": few,
        "batch_statistics": "transductive",
        "outer_rate": 1e-3,
        "step_size_rate": 1e-3,
        "meta_batch": 16,
        "inner_steps": 1,
        "test_inner_steps": 1,
        "report_step": 1,
        "inner_rate": 0.1,
    }
    given = {
        field.name: value
        for field in fields(settings)
        if (value := getattr(settings, field.name)) is not None
    }
    values: dict[str, Any] = {"clip": None, "data_dir": None, **common, **defaults, **given}
    if data.sizes is not None:
        values |= _no_larger(values, given, data.sizes, entry)
    values.setdefault("train_ways", values["ways"])
    values.setdefault("test_shots", values["shots"])
    resolved = Resolved(**values)
    _check(resolved, entry)
    return Plan(resolved, entry, data)


def _no_larger(
    values: Mapping[str, Any], given: Mapping[str, Any], sizes: EpisodeSizes, entry: FewShotEntry
) -> dict[str, Any]:
    """Defaults that the classes and examples allow; what was given stays."""
    train = sizes.train_classes
    if values["validate_every"]:
        train = max(1, train - values["validation_classes"])
    classes = sizes.test_classes if entry.embedding else min(train, sizes.test_classes)
    found = {"ways": min(values["ways"], classes)}
    if "train_ways" in values:
        found["train_ways"] = min(values["train_ways"], train)
    if values["small"] == "refuse":
        n = sizes.examples
        queries = max(given.get("train_queries", 0), given.get("queries", 0), n - n // 2)
        shots = found["shots"] = given.get("shots", max(1, min(values["shots"], n - queries)))
        found["train_queries"] = max(1, min(values["train_queries"], n - shots))
        test_shots = given.get("test_shots", shots)
        found["queries"] = max(1, min(values["queries"], n - test_shots))
    return {name: value for name, value in found.items() if name not in given}


def _check(s: Resolved, entry: FewShotEntry) -> None:
    ones = ("ways", "train_ways", "steps", "episodes", "meta_batch", "shots", "test_shots",
            "queries", "train_queries", "filters", "validation_classes",
            "validation_episodes")  # fmt: skip
    check_numbers(
        s,
        least={
            **dict.fromkeys(ones, 1),
            "inner_steps": 0,
            "test_inner_steps": 0,
            "seed": 0,
            "validate_every": 0,
        },
        above=("outer_rate", "step_size_rate", "clip")
        + (() if entry.embedding else ("inner_rate",)),
    )
    statistics = ("frozen", "group") if entry.embedding else ("transductive", "group")
    known(s.batch_statistics, statistics, what=f"batch statistics of {s.learner}")
    if not entry.embedding and s.train_ways != s.ways:
        raise ValueError(
            f"{s.learner} has a head of {s.ways} ways, "
            f"so train_ways must be the same, got {s.train_ways}"
        )
    if s.validate_every and s.validation_classes < s.ways:
        raise ValueError(
            f"validation_classes must be at least ways, {s.ways}, got {s.validation_classes}"
        )
    if not 0 <= s.report_step <= s.test_inner_steps:
        raise ValueError(
            f"report_step must be in 0..{s.test_inner_steps} (test_inner_steps), "
            f"got {s.report_step}"
        )
