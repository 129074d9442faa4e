"""The data of lifelong runs: background classes, and the stream of each seed."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from lml_jax.data.augment import Jitter, affine
from lml_jax.data.domains import rotated
from lml_jax.data.stream import Stream
from lml_jax.data.streams import class_incremental, domain_incremental
from lml_jax.experiments.datasets import DataRequest
from lml_jax.experiments.lifelong.settings import Plan, start_entry
from lml_jax.types import Dataset

JITTERED = partial(affine, jitter=Jitter())  # one object, so that streams share programs


class StreamData(NamedTuple):
    """Examples of a stream's classes; `test` is None where each class is divided."""

    train: Dataset
    test: Dataset | None


def load(plan: Plan) -> StreamData:
    """The data that the streams of all seeds are made of."""
    assert plan.data.stream is not None
    return StreamData(*plan.data.stream(request_of(plan)))


def background_of(plan: Plan) -> Dataset:
    """The classes to meta-train on."""
    s = plan.settings
    entry = plan.data if s.start_data is None else start_entry(s)
    assert entry.background is not None
    # Another data set is read from its own default folder.
    request = request_of(plan) if s.start_data is None else DataRequest()
    return entry.background(request)


def request_of(plan: Plan) -> DataRequest:
    """Enough examples per class for training and test, where examples are drawn."""
    s = plan.settings
    each = 20 if plan.train_per_class is None else plan.train_per_class + s.test_per_class
    return DataRequest(s.data_dir, per_class=each if plan.data.drawn else 20)


def stream_of(plan: Plan, data: StreamData, seed: int) -> Stream:
    """The stream of one seed. A domain stream turns its images, over half a circle in all."""
    s = plan.settings
    common: dict[str, Any] = {
        "tasks": plan.tasks,
        "seed": seed,
        "test": data.test,
        "train_per_class": plan.train_per_class,
        "shots": s.shots,
        "queries": s.queries,
        "meta_batch": s.meta_batch,
        "small": s.small,
    }
    if s.scenario == "domain":
        turn = rotated(180.0 / plan.tasks)
        stream = domain_incremental(data.train, turn, classes=plan.classes, **common)
    else:
        stream = class_incremental(data.train, classes_per_task=plan.classes, **common)
    return replace(stream, augment=JITTERED) if s.jitter else stream
