"""Data sets by name: one entry each, used by every command."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import numpy as np

from lml_jax.checks import known
from lml_jax.data.arrays import select
from lml_jax.data.digits import digits
from lml_jax.data.glyphs import glyphs
from lml_jax.data.mnist import mnist
from lml_jax.data.omniglot import omniglot
from lml_jax.data.splits import omniglot_split
from lml_jax.data.synthetic import sinusoids
from lml_jax.experiments import own_data
from lml_jax.experiments.progress import Sampler
from lml_jax.experiments.record import Record, fingerprint
from lml_jax.types import Dataset

HELD_OUT_SCRIPTS = 5  # of glyphs: the last ones, never meta-trained on


class DataRequest(NamedTuple):
    """What an entry may need to know to load its data.

    Attributes:
        data_dir: folder of prepared data; None for the default of its format.
        split: of Omniglot's characters.
        size: pixels a side, where images can be made or resized.
        per_class: examples per class, where they are drawn here.
    """

    data_dir: str | None = None
    split: str = "background/evaluation"
    size: int = 28
    per_class: int = 20


class DataEntry(NamedTuple):
    """A data set as the commands use it.

    Attributes:
        about: one line for the documentation.
        stream: request -> (examples, test examples) of the classes of streams and test episodes;
            None instead of test examples where the caller divides the examples of each class.
        background: request -> examples of classes to meta-train on, none of them in `stream`.
        tasks: (tasks, shots, queries) -> sampler of regression tasks, in place of the two above.
        reads_folder: whether `data_dir` means anything to it.
        made_with: packages whose version changes the examples.
        tasks_in_stream: default number of tasks of a stream.
        classes_per_task: default number of classes per task.
        train_per_class: default number of training examples per class; None: all there are.
        drawn: whether `DataRequest.per_class` says how many examples there are.
        turned: whether protocols turn its images to make more classes.
        sizes: the largest few-shot episodes; None where the defaults are known to fit.
    """

    about: str
    stream: Callable[[DataRequest], tuple[Dataset, Dataset | None]] | None = None
    background: Callable[[DataRequest], Dataset] | None = None
    tasks: Callable[..., Sampler] | None = None
    reads_folder: bool = False
    made_with: tuple[str, ...] = ()
    tasks_in_stream: int = 10
    classes_per_task: int = 5
    train_per_class: int | None = None
    drawn: bool = False
    turned: bool = False
    sizes: own_data.EpisodeSizes | None = None


def _glyphs(request: DataRequest, *, held_out: bool) -> Dataset:
    every = glyphs(size=request.size, per_class=request.per_class)
    last = np.asarray(every.group) >= len(every.groups) - HELD_OUT_SCRIPTS
    return select(every, np.flatnonzero(last == held_out))


def _omniglot(request: DataRequest, *, part: str) -> Dataset:
    if request.split == "background/evaluation":  # half of the images is enough
        half = {"train": "background", "test": "evaluation"}[part]
        return omniglot(half, data_dir=request.data_dir, size=request.size)
    return omniglot_split(request.split, part, data_dir=request.data_dir, size=request.size)


def _mnist(request: DataRequest) -> tuple[Dataset, Dataset]:
    return tuple(mnist(part, data_dir=request.data_dir) for part in ("train", "test"))  # type: ignore[return-value]


datasets: dict[str, DataEntry] = {
    "glyphs": DataEntry(
        "characters of 16 scripts drawn from fonts; needs no download",
        stream=lambda request: (_glyphs(request, held_out=True), None),
        background=partial(_glyphs, held_out=False),
        made_with=("pillow", "matplotlib"),
        train_per_class=15,
        drawn=True,
    ),
    "omniglot": DataEntry(
        "handwritten characters of 50 alphabets",
        stream=lambda request: (_omniglot(request, part="test"), None),
        background=partial(_omniglot, part="train"),
        reads_folder=True,
        made_with=("pillow",),
        train_per_class=15,
        turned=True,
    ),
    "mnist": DataEntry(
        "handwritten digits, 28x28",
        stream=_mnist,
        reads_folder=True,
        tasks_in_stream=5,
        classes_per_task=2,
    ),
    "digits": DataEntry(
        "handwritten digits, 8x8, from scikit-learn",
        stream=lambda request: (digits(), None),
        made_with=("scikit-learn",),
        train_per_class=143,
        tasks_in_stream=5,
        classes_per_task=2,
    ),
    "sine": DataEntry("regression of sine waves", tasks=sinusoids),
}


def data_entry(name: str, *, data_dir: str | None = None, command: str) -> DataEntry:
    """The entry of a data set.

    Args:
        name: of an entry in `datasets`; or data of the user's own, see `own_data.SOURCES`.
        data_dir: the folder that was asked for.
        command: what needs it: "streams" or "few-shot".

    Raises:
        ValueError: for an unknown name, a folder that the data set would ignore, a data set
            without the classes that the command needs, or one whose name is that of a folder of
            images too.
    """
    if name in datasets and own_data.is_folder_of_classes(name):
        raise ValueError(
            f"{name!r} is a data set and a folder of class folders here: give ./{name} for the "
            "folder, or rename it for the data set"
        )
    load = None if name in datasets else own_data.loader_of(name)
    if load is not None:
        return _own_entry(name, load, data_dir, few_shot=command == "few-shot")
    if name not in datasets:
        try:
            known(name, datasets, what="data set")
        except ValueError as error:
            raise ValueError(f"{error}; or {own_data.SOURCES}") from None
    entry = datasets[name]
    if data_dir is not None and not entry.reads_folder:
        reading = [other for other, found in datasets.items() if found.reads_folder]
        raise ValueError(
            f"data_dir is {str(data_dir)!r}, but {name!r} reads no folder; expected data among "
            f"{', '.join(reading)}"
        )
    usable = names_for(command)
    if name not in usable:
        lacks = "classes to meta-train on" if command == "few-shot" else "classes"
        raise ValueError(f"{name!r} has no {lacks}; data for {command}: {', '.join(usable)}")
    return entry


def _own_entry(
    name: str, load: own_data.Load, data_dir: str | None, *, few_shot: bool
) -> DataEntry:
    """Streams of all classes; few-shot runs meta-train on two thirds and test on the others."""
    classes, smallest = own_data.smallest_class(name, load, data_dir)
    per_task = min(5, max(1, classes // 2))

    def every(request: DataRequest) -> tuple[Dataset, Dataset | None]:
        return load(request.size, request.data_dir)

    def part(request: DataRequest, *, held_out: bool) -> Dataset:
        return own_data.divided(every(request)[0], held_out=held_out)

    return DataEntry(
        "data of the user's own",
        stream=(lambda request: (part(request, held_out=True), None)) if few_shot else every,
        background=partial(part, held_out=False) if few_shot else None,
        reads_folder=True,
        tasks_in_stream=classes // per_task,
        classes_per_task=per_task,
        train_per_class=own_data.training_examples(smallest),
        sizes=own_data.episode_sizes(classes, smallest) if few_shot else None,
    )


def names_for(command: str) -> list[str]:
    """Data sets for "streams", or for "few-shot", which needs classes to meta-train on."""
    few_shot = command == "few-shot"
    return [
        name
        for name, entry in datasets.items()
        if (few_shot and entry.tasks) or (entry.background if few_shot else entry.stream)
    ]


def made_of(entry: DataEntry, **parts: Dataset | None) -> Record:
    """What the record says of the data: examples, classes and a hash of each part, and versions."""
    return {
        **{name: fingerprint(data) for name, data in parts.items() if data is not None},
        "made_with": {package: version(package) for package in entry.made_with},
    }
