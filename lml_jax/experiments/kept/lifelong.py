"""Registered lifelong learners that are kept: their whole state, and how they are built again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import keep
from lml_jax.checks import known
from lml_jax.data.arrays import from_arrays
from lml_jax.data.images import Pixels
from lml_jax.data.stream import Stream
from lml_jax.data.streams import of_tasks
from lml_jax.experiments.lifelong.entries import Context, context_of
from lml_jax.experiments.lifelong.learners import lifelong_learners
from lml_jax.experiments.lifelong.settings import Lifelong, Plan, resolve
from lml_jax.experiments.record import Record
from lml_jax.keep.calibration import Calibration
from lml_jax.lifelong.growth import grow as grown
from lml_jax.types import Batch, Dataset, Key, LifelongLearner, LifelongState, Params, PyTree

KIND = "lifelong"
_PLAN = ("start", "tasks", "classes", "train_per_class", "steps", "inner_rate", "outer_rate",
         "retention_weight", "reduction", "past_batch", "options", "span")  # fmt: skip


def kept_of(
    name: str,
    context: Context,
    state: LifelongState,
    *,
    images: Dataset,
    embedding: keep.Encoder | None,
    origin: Record,
) -> keep.Kept:
    """A learner of a run as one that is kept: it answers by what it recalls.

    It is taught more by `observe`, one batch after another, where it can learn without task
    boundaries; the order then matters. Its capacity doubles when it is full.

    Args:
        name: in `lifelong_learners`.
        context: what it was built from.
        state: after the stream.
        images: what the stream was made of: examples as they are asked.
        embedding: of the images, where the learner works on features; None: it works on images.
        origin: what the run says of itself.

    Raises:
        ValueError: for a scenario other than class-incremental, where answers need more than x.
    """
    plan, stream = context.plan, context.stream
    if plan.settings.scenario != "class":
        raise ValueError(
            f"only class-incremental learners are kept, got the scenario {plan.settings.scenario!r}"
        )
    shape = stream.x.shape[1:]
    about = {
        "kind": KIND,
        "name": name,
        "settings": asdict(plan.settings),
        "plan": {field: getattr(plan, field) for field in _PLAN}
        | {"options": dict(plan.options), "span": list(plan.span)},
        "classes": stream.classes,
        "train_size": stream.train_size,
        "shape": list(shape),
        "dtype": "uint8" if stream.x.dtype == jnp.uint8 else "float32",
    }
    rule = lifelong_rule(json.dumps(about, sort_keys=True))
    item = images.x.shape[1:]
    of_images = images.x.dtype == np.uint8
    kept = keep.new(
        keep.encoder("flat", {}) if embedding is None else embedding,
        rule._replace(init=lambda key, classes, z: ({}, state)),
        shape=item,
        dtype="uint8" if of_images else "float32",
        pixels=Pixels(item[:2], "colour" if len(item) == 3 else "grey") if of_images else None,
        origin=origin,
        capacity=stream.classes,
    )
    names = stream.label_names or tuple(f"class {c}" for c in np.asarray(stream.original).tolist())
    return kept._replace(rule=rule, names=names, calibration=Calibration())


def rules() -> Mapping[str, Any]:
    """For `keep.load(path, rules=rules())`: learners of `lifelong_learners`."""
    return {KIND: lambda about: lifelong_rule(json.dumps(dict(about), sort_keys=True))}


@cache  # one rule per learner and capacity, so that what is compiled for it is used again
def lifelong_rule(text: str) -> keep.Rule:
    """The rule of a learner; `text` is the JSON that `kept_of` writes.

    Raises:
        ValueError: for an unknown learner, or settings that it cannot be built from.
    """
    about = json.loads(text)
    name = known(str(about["name"]), lifelong_learners, what="lifelong learner")
    learner = _built(name, about)
    shape, image = tuple(about["shape"]), about["dtype"] == "uint8"

    def items(z: Array) -> Array:
        x = z.reshape(-1, *shape)
        return jnp.round(x * 255).astype(jnp.uint8) if image else x

    def init(key: Key, classes: int, z: Array) -> tuple[Params, PyTree]:
        return {}, learner.init(key, items(z))

    def learn(params: Params, state: PyTree, z: Array, y: Array, weight: Array) -> PyTree:
        key = jax.random.fold_in(jax.random.key(0), state.train.step)
        try:
            return learner.observe(state, Batch(items(z), y, weight), key)[0]
        except ValueError as error:
            raise ValueError(
                f"{name!r} cannot learn one more class without its stream: {error}"
            ) from error

    def fit(params: Params, state: PyTree) -> PyTree:
        return state

    def predict(params: Params, fitted: PyTree, z: Array) -> Array:
        return learner.recall(fitted, items(z), jax.random.key(0))

    def grow(
        key: Key, params: Params, state: PyTree, classes: int, z: Array
    ) -> tuple[Params, PyTree]:
        try:
            return params, grown(learner, state, items(z), key)
        except ValueError as error:
            raise ValueError(
                f"{name!r} cannot learn one more class without its stream: what it stores does not "
                f"grow ({error})"
            ) from error

    def resized(classes: int) -> keep.Rule:
        return lifelong_rule(json.dumps({**about, "classes": classes}, sort_keys=True))

    said = tuple(sorted(about.items()))
    return keep.Rule(name, init, learn, fit, predict, grow, about=said, resized=resized)


def _built(name: str, about: Mapping[str, Any]) -> LifelongLearner:
    """The learner, from a stream that has the same sizes and no examples that matter."""
    plan, entry = _plan_of(about), lifelong_learners[name]
    return entry.make(context_of(plan, _like_stream(plan, about), entry))


def _plan_of(about: Mapping[str, Any]) -> Plan:
    saved = dict(about["plan"])
    given = dict(about["settings"])
    net = given["net"] or ("linear" if saved["start"] == "features" else "mlp")
    # The data need not be there any more.
    settings = Lifelong(
        **{**given, "data": "glyphs", "data_dir": None, "start_data": None, "net": net,
           "options": tuple(given["options"])}
    )  # fmt: skip
    own = {field: saved[field] for field in _PLAN} | {"span": tuple(saved["span"])}
    plan = resolve(settings)._replace(**own)
    return plan._replace(settings=replace(settings, data=str(given["data"])))


def _like_stream(plan: Plan, about: Mapping[str, Any]) -> Stream:
    classes, shape = int(about["classes"]), tuple(about["shape"])
    if not 1 <= plan.tasks <= classes:  # nothing is made of a number that a file invents
        raise ValueError(f"{classes} classes are said to have come in {plan.tasks} tasks")
    y = np.repeat(np.arange(classes), 2)
    zero = np.zeros((), np.uint8 if about["dtype"] == "uint8" else np.float32)
    x = np.broadcast_to(zero, (len(y), *shape))  # takes no memory
    parts = [part.tolist() for part in np.array_split(np.arange(classes), plan.tasks)]
    s = plan.settings
    stream = of_tasks(
        from_arrays(x, y), parts, seed=0, train_per_class=1, small="pad", shots=s.shots,
        queries=s.queries, meta_batch=s.meta_batch,
    )  # fmt: skip
    return replace(stream, train_size=int(about["train_size"]))
