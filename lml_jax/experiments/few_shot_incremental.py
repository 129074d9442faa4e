"""Few-shot class-incremental learning: Omniglot, many base classes, then a few new at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import jax.numpy as jnp
import numpy as np

from lml_jax import heads
from lml_jax.data.omniglot import omniglot
from lml_jax.experiments.intervals import table
from lml_jax.experiments.lifelong.pretrain import features_of
from lml_jax.experiments.lifelong.settings import Lifelong, resolve
from lml_jax.experiments.recipe import Recipe
from lml_jax.experiments.record import Record, fingerprint
from lml_jax.experiments.runner import Place, Report
from lml_jax.experiments.sessions import CLASSIFIERS, Classifier, Session, run_sessions
from lml_jax.settings import check_numbers, check_seeds
from lml_jax.types import Dataset

FIGURES = {
    "base": "base",
    "new": "new",
    "harmonic": "harmonic mean",
    "acc": "all images",
    "average": "average",
}


@dataclass(frozen=True)
class FewShotIncremental:
    """Settings: Omniglot's 964 background classes, then sessions of evaluation classes."""

    sessions: int = 20  # of new classes
    ways: int = 5  # new classes in a session
    shots: int = 5  # examples of a new class
    base_shots: int = 15  # examples of a base class; the other 5 are tested
    width: int = 2000  # of the random features
    start_steps: int = 2000  # updates of the meta-training of the embedding on the base classes
    seeds: tuple[int, ...] = tuple(range(20))  # draws of the new classes and of their examples
    data_dir: str | None = None  # folder of prepared data


def classifiers_of(base: int) -> Mapping[str, Classifier]:
    """The classifiers compared, with as many base classes."""
    return {**CLASSIFIERS, "calibrated": Classifier(heads.calibrated_mean(base))}


def compare(settings: FewShotIncremental) -> Report:
    """(folder, resume=False) -> report: every classifier with every draw."""

    def run(out: Path, *, resume: bool = False) -> str:
        return table(run_classifiers(settings, out, resume=resume)["runs"], FIGURES)

    return run


def run_classifiers(settings: FewShotIncremental, out: Path, *, resume: bool = False) -> Record:
    """Meta-train the embedding on the base classes, and teach every classifier every draw.

    Raises:
        ValueError: for settings that cannot be, or no or repeated seeds.
    """
    s = settings
    counts = ("sessions", "ways", "shots", "base_shots", "width", "start_steps")
    check_numbers(s, least=dict.fromkeys(counts, 1))
    check_seeds(s.seeds)
    base, new = (omniglot(split, data_dir=s.data_dir) for split in ("background", "evaluation"))
    if s.sessions * s.ways > new.classes:
        raise ValueError(f"{s.sessions} sessions of {s.ways} classes: there are {new.classes}")
    if max(s.base_shots, s.shots) >= 20:
        raise ValueError(
            f"shots must be below 20, for some of the 20 drawings are tested, got {s.shots} and "
            f"{s.base_shots} of base classes"
        )
    start = Lifelong(data="omniglot", data_dir=s.data_dir, start_steps=s.start_steps)
    with TemporaryDirectory() as folder:  # what it leaves is in the cache
        features = features_of(resolve(start), base, Place(Path(folder)))
    z_base, z_new = features.apply(base), features.apply(new)
    return run_sessions(
        classifiers_of(base.classes),
        partial(sessions_of, s, z_base, z_new),
        lambda R: scores_of(R, s, base.classes),
        out,
        classes=base.classes + s.sessions * s.ways,
        width=s.width,
        seeds=s.seeds,
        config={name: value for name, value in asdict(s).items() if name != "seeds"},
        about={"data_made": {"base": fingerprint(base), "new": fingerprint(new)}, **features.about},
        resume=resume,
    )


def sessions_of(s: FewShotIncremental, base: Dataset, new: Dataset, seed: int) -> Sequence[Session]:
    """The base session, then those of one draw of new classes and of examples."""
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(new.classes)[: s.sessions * s.ways].reshape(s.sessions, s.ways)
    label = base.classes + np.arange(drawn.size).reshape(drawn.shape)
    return [
        _session(base, np.arange(base.classes), np.arange(base.classes), s.base_shots, rng),
        *(_session(new, *each, s.shots, rng) for each in zip(drawn, label, strict=True)),
    ]


def _session(
    data: Dataset, classes: np.ndarray, labels: np.ndarray, shots: int, rng: np.random.Generator
) -> Session:
    """`shots` random examples of each class, and all others of it as a test."""
    rows = np.stack([rng.permutation(np.asarray(data.rows_of(c))) for c in classes])
    x = np.asarray(data.x)

    def part(own: np.ndarray) -> tuple[jnp.ndarray, jnp.ndarray]:
        return jnp.asarray(x[own.reshape(-1)]), jnp.asarray(np.repeat(labels, own.shape[1]))

    return Session(*part(rows[:, :shots]), *part(rows[:, shots:]))


def scores_of(R: np.ndarray, s: FewShotIncremental, base: int) -> Record:
    """Accuracy of base classes, of new ones, their harmonic mean, and of all test images.

    All are among all classes seen; `by_session` has them after each session, `average` is the mean
    of `all images` over the sessions.
    """
    images = np.array([base * (20 - s.base_shots), *[s.ways * (20 - s.shots)] * s.sessions])
    rows = R[1:]
    after = np.arange(1, len(rows))
    new = np.array([rows[i, 1 : i + 1].mean() for i in after])
    old = rows[1:, 0]
    every = np.array([np.average(row[: i + 1], weights=images[: i + 1])
                      for i, row in enumerate(rows)])  # fmt: skip
    harmonic = 2 * old * new / np.maximum(old + new, 1e-12)
    return {
        "base": float(old[-1]),
        "new": float(new[-1]),
        "harmonic": float(harmonic[-1]),
        "acc": float(every[-1]),
        "average": float(every.mean()),
        "by_session": {"base": rows[:, 0], "new": new, "harmonic": harmonic, "all": every},
    }


recipes: dict[str, Recipe] = {
    "omniglot-few-shot-incremental": Recipe(
        "Omniglot, 964 base classes x 15 drawings, then 20 sessions of 5 new classes x 5 drawings; "
        "closed-form classifiers on a frozen embedding meta-trained on the base classes; accuracy "
        "among all 1,064 classes; 20 draws",
        "none with intervals",
        FewShotIncremental(),
        compare,
        FewShotIncremental(sessions=4, start_steps=200, width=1000, seeds=(0, 1)),
    ),
}
