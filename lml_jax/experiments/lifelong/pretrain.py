"""Learning to learn before the stream: parameters meta-trained on background classes, cached."""

import hashlib
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from lml_jax import train
from lml_jax.data._cache import cache_dir
from lml_jax.data.episodes import episodes
from lml_jax.execution import execution
from lml_jax.experiments.lifelong.learners import Start, classifier_of, embedding_of
from lml_jax.experiments.lifelong.settings import Plan
from lml_jax.experiments.lifelong.streams import background_of
from lml_jax.experiments.progress import Sampler, train_with_bar
from lml_jax.experiments.record import Record, fingerprint
from lml_jax.experiments.runner import Place
from lml_jax.params import load_params, save_params
from lml_jax.types import Dataset, Key, Params, Task

_FORMAT = 1  # raise it when the same settings give other parameters
_RATE = 1e-3  # of Adam, falling to 0 along a cosine


def start_of(plan: Plan, start: Start, classes: int, place: Place) -> tuple[Params | None, Record]:
    """Meta-trained parameters for a learner on a stream of `classes`, and what the record says.

    They are read from the cache folder if an earlier run with the same settings, data and version
    of this library left them there, else trained and written there.

    Args:
        plan: settings.
        start: of the learner's entry.
        classes: labels of the stream.
        place: where checkpoints of the meta-training go.

    Returns:
        None, for random parameters, where the settings or the entry ask for no meta-training, or
        the data set has no background classes.
    """
    if start == "random" or plan.settings.from_scratch or plan.data.background is None:
        return None, {"start": "random"}
    data = background_of(plan)
    config = _config(plan, start, classes, data)
    path = _path(config)
    learner = (classifier_of if start == "classifier" else embedding_of)(plan, classes)
    like = learner.init(jax.random.key(0), data.x[:2])
    found: Record = {"start": start, "start_file": path.name}
    if path.exists():
        try:
            return load_params(path, like), {**found, "start_cached": True}
        except ValueError as error:
            warnings.warn(f"{error}; meta-training again", stacklevel=2)
    params, seconds = _meta_train(plan, start, classes, data, config, place)
    try:
        save_params(path.parent, params, name=path.stem)
    except OSError as error:
        warnings.warn(f"{path} was not written ({error}); set LML_JAX_CACHE", stacklevel=2)
    return params, {**found, "start_cached": False, "start_seconds": seconds}


def _config(plan: Plan, start: Start, classes: int, data: Dataset) -> Record:
    """Everything that the parameters depend on."""
    s = plan.settings
    own = {"classes": classes, "meta_batch": s.meta_batch, "inner_steps": s.inner_steps,
           "inner_rate": s.inner_rate, "ways": plan.classes}  # fmt: skip
    return {
        "start": start,
        "net": s.net,
        "width": s.width,
        "few_shot": s.few_shot if start == "embedding" else None,
        "steps": s.start_steps,
        "shots": s.shots,
        "queries": s.queries,
        "seed": s.start_seed,
        **(own if start == "classifier" else {"ways": s.start_ways}),
        "data": fingerprint(data),
        "version": version("lml-jax"),
        "jax": jax.__version__,
        "format": _FORMAT,
    }


def _path(config: Record) -> Path:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / f"start-{config['start']}-{digest}.npz"


def _meta_train(
    plan: Plan, start: Start, classes: int, data: Dataset, config: Record, place: Place
) -> tuple[Params, float]:
    """Parameters after meta-training, and the seconds it took."""
    s = plan.settings
    if start == "classifier":
        learner, sample = classifier_of(plan, classes), classifier_tasks(plan, classes, data)
    else:
        learner, sample = embedding_of(plan, s.start_ways), embedding_tasks(plan, data)
    key_init, key_train = jax.random.split(jax.random.fold_in(jax.random.key(s.start_seed), 1))
    tx = optax.adam(optax.cosine_decay_schedule(_RATE, s.start_steps))
    state = train.init_state(learner.init(key_init, data.x[:2]), tx)
    # Without the name of a learner: those that start from the same parameters share checkpoints.
    with place._replace(about="").keeping(config, part=f"start_{start}") as keeper:
        run = train_with_bar(
            train.make_train_step(train.episode_loss(learner), tx),
            sample,
            state,
            jax.device_put(data),
            key_train,
            steps=s.start_steps,
            how=execution(plan.net.kind, steps=s.start_steps),
            about=f"meta-train the {start}",
            place=place,
            keeper=keeper,
        )
    return run.state.params, run.seconds


def embedding_tasks(plan: Plan, data: Dataset) -> Sampler:
    """One episode of many classes per update."""
    s = plan.settings
    return episodes(
        data, tasks=1, ways=min(s.start_ways, data.classes), shots=s.shots, queries=s.queries
    )


def classifier_tasks(plan: Plan, classes: int, data: Dataset) -> Sampler:
    """Episodes like those of the stream, over the head that the stream will use.

    The classes of an episode get random units of the head, so that all units are trained and none
    belongs to a class.
    """
    s, ways = plan.settings, plan.classes
    drawn = episodes(data, tasks=s.meta_batch, ways=ways, shots=s.shots, queries=s.queries)

    def sample(data: Dataset, key: Key) -> Task:
        key_draw, key_unit = jax.random.split(key)
        episode = drawn(data, key_draw)
        keys = jax.random.split(key_unit, s.meta_batch)
        unit = jax.vmap(lambda k: jax.random.permutation(k, classes)[:ways])(keys)
        unit = unit.astype(jnp.int32)
        return episode._replace(
            support=episode.support._replace(y=jnp.take_along_axis(unit, episode.support.y, 1)),
            query=episode.query._replace(y=jnp.take_along_axis(unit, episode.query.y, 1)),
        )

    return sample
