"""Embeddings that are trained once and looked at often: frozen, and every image embedded once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.data.episodes import episodes
from lml_jax.experiments.fewshot.build import learner_of, network_of
from lml_jax.experiments.fewshot.settings import Sampler
from lml_jax.experiments.record import load_params
from lml_jax.heads import identity
from lml_jax.types import Dataset, Key, Net, Params

_IMAGES = 500  # at a time: a few hundred megabytes of activations


def frozen(net: Net, params: Params, data: Dataset, key: Key, *, images: int = 1000) -> Params:
    """`params` with the batch statistics, if the network has any, of so many images of `data`."""
    if net.freeze is None:
        return params
    rows = jax.random.permutation(key, data.x.shape[0])[:images]
    return net.freeze(params, data.x[rows])


def embed(net: Net, params: Params, data: Dataset) -> Dataset:
    """`data` with each image x replaced by its embedding, [n, d]."""
    apply = jax.jit(net.apply)
    parts = [apply(params, data.x[i : i + _IMAGES]) for i in range(0, len(data.x), _IMAGES)]
    return replace(data, x=jnp.concatenate(parts))


def embedded(
    settings: Any, net: Net, params: Params, data: Dataset
) -> tuple[Net, Params, Dataset, Sampler]:
    """(network, params, data, sampler of test tasks), with the images of `data` embedded once."""
    features = embed(net, params["net"], data)
    sample = episodes(
        features,
        tasks=50,
        ways=settings.ways,
        shots=settings.test_shots,
        queries=settings.queries,
    )
    return identity, {**params, "net": {}}, features, sample


def restore(settings: Any, path: Path, x: Array) -> tuple[Net, Params]:
    """The network and the parameters that a run with these settings wrote; `x` are like its images.

    Raises:
        ValueError: where the file does not hold them.
    """
    net = network_of(settings)
    learner = learner_of(settings, net, steps=0, ways=settings.train_ways)
    like = learner.init(jax.random.key(0), x[:2])
    if net.freeze is not None:
        like = {**like, "net": net.freeze(like["net"], x[:2])}
    return net, load_params(path, like)
