"""Learning to learn before the stream: what is meta-trained on background classes, and cached."""

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lml_jax import storage, train
from lml_jax._version import __version__
from lml_jax.data._cache import cache_dir
from lml_jax.data.episodes import episodes
from lml_jax.execution import NetKind, execution
from lml_jax.experiments.fewshot.embedding import embed
from lml_jax.experiments.lifelong.entries import Start, classifier_of, embedding_of
from lml_jax.experiments.lifelong.settings import Plan
from lml_jax.experiments.lifelong.streams import StreamData
from lml_jax.experiments.networks import networks
from lml_jax.experiments.progress import Sampler, train_with_bar
from lml_jax.experiments.record import Record, fingerprint
from lml_jax.experiments.runner import Place
from lml_jax.learners.protonet import protonet
from lml_jax.types import Dataset, Key, Learner, Net, Params, Task

_FORMAT = 1  # raise it when the same settings give other parameters
_RATE = 1e-3  # of Adam, falling to 0 along a cosine
_SCALED_BY = 2000  # background images that give the scale of features


class FrozenEmbedding(NamedTuple):
    """A meta-trained embedding, and the features of background images.

    `mean` [d] and `scale` are those of the features, `some` [n, d].
    """

    net: Net
    params: Params
    mean: np.ndarray
    scale: float
    some: np.ndarray
    about: Record


class Features(NamedTuple):
    """A frozen embedding f as features (f(x) - mean) / scale, of mean squared norm 1.

    They are clipped to `span`, which holds 99.8 % of those of background images.
    """

    apply: Callable[[Dataset], Dataset]
    embedding: FrozenEmbedding
    span: tuple[float, float]
    about: Record


def embedding_of_start(plan: Plan, background: Dataset, place: Place) -> FrozenEmbedding:
    """The embedding that all learners share with `--start features`: ProtoNet's.

    Its mean and scale are those of background images.
    """
    s = plan.settings
    entry = networks[s.start_net]
    net = entry.embedding(s.width)
    ways = min(s.start_ways, background.classes)
    sample = episodes(background, tasks=1, ways=ways, shots=s.shots, queries=s.queries)
    config = _config(plan, "features", background) | {"net": s.start_net, "ways": ways}
    learner = protonet(net, classes=ways)
    params, about = _cached(config, learner, sample, background, place, entry.kind)
    rows = np.random.default_rng(0).permutation(len(background.x))[:_SCALED_BY]
    some = replace(background, x=np.asarray(background.x)[rows])
    z = np.asarray(embed(net, params["net"], some).x)
    mean = z.mean(0)
    scale = np.sqrt(np.square(z - mean).sum(1).mean())
    return FrozenEmbedding(net, params["net"], mean, scale, z, about)


def features_of(plan: Plan, background: Dataset, place: Place) -> Features:
    """The features of `embedding_of_start`."""
    found = embedding_of_start(plan, background, place)
    net, params, mean, scale, z, about = found
    low, high = np.quantile((z - mean) / scale, (0.001, 0.999)).tolist()

    def apply(data: Dataset) -> Dataset:
        embedded = embed(net, params, data)
        scaled = (np.asarray(embedded.x) - mean) / scale
        return replace(embedded, x=np.clip(scaled, low, high))

    return Features(apply, found, (low, high), about)


def on_features(data: StreamData, features: Features) -> StreamData:
    """The data of streams, with images embedded once."""
    test = None if data.test is None else features.apply(data.test)
    return StreamData(features.apply(data.train), test)


def parameters_of(
    plan: Plan, start: Start, classes: int, background: Dataset, place: Place
) -> tuple[Params, Record]:
    """Initial parameters with `--start parameters`, of a learner on a stream of `classes`.

    A classifier is meta-trained on episodes like those of the stream, an embedding on episodes of
    many classes.
    """
    s = plan.settings
    config = _config(plan, start, background) | {"net": s.net, "width": s.width}
    if start == "classifier":
        config |= {"classes": classes, "ways": plan.classes, "inner_steps": s.inner_steps,
                   "inner_rate": plan.inner_rate, "meta_batch": s.meta_batch}  # fmt: skip
        learner, sample = classifier_of(plan, classes), classifier_tasks(plan, classes, background)
    else:
        ways = min(s.start_ways, background.classes)
        config |= {"few_shot": s.few_shot, "ways": ways}
        learner = embedding_of(plan, ways)
        sample = episodes(background, tasks=1, ways=ways, shots=s.shots, queries=s.queries)
    return _cached(config, learner, sample, background, place, plan.net.kind)


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


def _config(plan: Plan, start: str, background: Dataset) -> Record:
    """What all meta-trained parameters depend on."""
    s = plan.settings
    return {
        "start": start,
        "steps": s.start_steps,
        "shots": s.shots,
        "queries": s.queries,
        "seed": s.start_seed,
        "data": fingerprint(background),
        "versions": [__version__, jax.__version__, _FORMAT],
    }


def _cached(
    config: Record, learner: Learner, sample: Sampler, data: Dataset, place: Place, kind: NetKind
) -> tuple[Params, Record]:
    """The parameters of `config` from the cache folder; else trained, and written there."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    name, folder = f"start-{config['start']}-{digest}.npz", cache_dir()
    path = None if folder is None else folder / name
    about: Record = {"start": config["start"], "start_file": name}
    key_init, key_train = jax.random.split(jax.random.fold_in(jax.random.key(config["seed"]), 1))
    like = learner.init(key_init, data.x[:2])
    if path is not None and path.exists():
        try:
            return storage.load(path, like), {**about, "start_cached": True}
        except ValueError as error:
            warnings.warn(f"{error}; meta-training again", stacklevel=2)
    tx = optax.adam(optax.cosine_decay_schedule(_RATE, config["steps"]))
    # Without the name of a learner: those that start from the same parameters share checkpoints.
    with place._replace(about="").keeping(config, part=f"start_{config['start']}") as keeper:
        run = train_with_bar(
            train.make_train_step(train.episode_loss(learner), tx),
            sample,
            train.init_state(like, tx),
            jax.device_put(data),
            key_train,
            steps=config["steps"],
            how=execution(kind, steps=config["steps"]),
            about=f"meta-train {config['start']}",
            place=place,
            keeper=keeper,
        )
    try:
        if path is not None:
            storage.save(path, run.state.params)
    except OSError as error:
        warnings.warn(f"{path} was not written ({error}); set LML_JAX_CACHE", stacklevel=2)
    return run.state.params, {**about, "start_cached": False, "start_seconds": run.seconds}
